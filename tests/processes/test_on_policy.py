"""The student generates text while it trains: weights stay the same, and metrics count it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import tomli_w
import torch

from dskd_ds.models.generation import continue_tokens
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.spec import load_spec
from dskd_ds.student.prompts import prompts_of
from tests.conftest import WORDS, TinyWorld
from tests.of_spec import source_of
from tests.processes.conftest import Launch, ranks

pytestmark = [pytest.mark.process, pytest.mark.slow]
ON_POLICY = {"on_policy_fraction": 0.5, "on_policy_prompt_tokens": 8, "on_policy_new_tokens": 6}


def test_generation_changes_neither_weights_nor_training(tiny: TinyWorld, launch: Launch) -> None:
    tree = tiny.spec_tree()
    tree |= {
        "student": {"layers": "first", "num_layers": 2, "dtype": "float32"},
        "run_dir": str(tiny.folder / "writes"),
        "train": {
            "num_steps": 6,
            "global_batch_blocks": 2,
            **ON_POLICY,
            "on_policy_temperature": 0.0,
        },
    }
    path = tiny.folder / "writes.toml"
    path.write_text(tomli_w.dumps(tree))
    for name, flags in (("written", ["--write"]), ("plain", [])):
        out = tiny.folder / name
        argv = ["--spec", str(path), "--out", str(out), *flags]
        assert launch(*ranks(2, "tests/processes/on_policy_worker.py", *argv)).code == 0
    written = [torch.load(tiny.folder / f"written.{rank}", weights_only=True) for rank in range(2)]
    plain = torch.load(tiny.folder / "plain.0", weights_only=True)
    for name, weight in plain["weights"].items():
        assert torch.equal(weight, written[0]["weights"][name]), name
        assert torch.equal(weight, written[1]["weights"][name]), name
    assert any(
        not torch.equal(weight, written[0]["before"][name])
        for name, weight in plain["weights"].items()
    )
    # A single process without DeepSpeed generates the same text from the gathered weights.
    spec = load_spec(path)
    from transformers import AutoModelForCausalLM

    from dskd_ds.models.named import RunModels
    from dskd_ds.student.depth import student_init

    init = student_init(spec, RunModels.of(spec))
    model = AutoModelForCausalLM.from_pretrained(init.path, dtype=torch.float32).eval()
    state = {
        name.removeprefix("language_model."): weight
        for name, weight in written[0]["before"].items()
    }
    model.load_state_dict(state, strict=False)
    corpus = source_of(spec)
    for rank in range(2):
        assert written[rank]["short"] == continue_tokens(
            model, [[5, 6, 7, 8]], [(0,)], 2 + 6 * rank, 0.0, [0]
        )
        block = corpus.get(2 + rank)[1]
        prompts = [prompt.tokens for prompt in prompts_of(block, spec.train, 32, 0, [])]
        texts = continue_tokens(model, prompts, [(0,)] * len(prompts), 6, 0.0, [0])
        expected: list[int] = []
        for prompt, text in zip(prompts, texts, strict=True):
            expected += [*prompt, *text]
        assert written[rank]["row"][: len(expected)] == expected


@pytest.mark.usefixtures("dictionary")
def test_metrics_count_the_text_that_the_student_wrote(tiny: TinyWorld, launch: Launch) -> None:
    tree = tiny.spec_tree()
    tree |= {
        "run_dir": str(tiny.folder / "on_policy"),
        "train": {"num_steps": 6, "global_batch_blocks": 4, **ON_POLICY},
    }
    path = tiny.folder / "on_policy.toml"
    path.write_text(tomli_w.dumps(tree))
    assert launch(*ranks(3, "dskd_ds/train.py", "--spec", str(path))).code == 0
    records = read_metrics(tiny.folder / "on_policy")
    assert [record["on_policy_share"] for record in records] == [0, 1, 0, 1, 0, 1]
    assert [record["generate_seconds"] > 0 for record in records] == [False, True] * 3
    for record in records:
        assert all(math.isfinite(value) for value in record.values())
        assert record["loss_kd"] > 0
    on_policy_records = [record for record in records if record["on_policy_share"]]
    assert sum(record["sense_positions"] for record in on_policy_records) > 0
    assert (tiny.folder / "on_policy" / "student" / "model.safetensors").is_file()


def write_uneven_lanes(path: Path) -> None:
    """Append a document for each of four lanes: three blocks of 32 tokens, then two blocks."""
    words = [WORDS[0]] * 100
    texts = [words, words, words[:70], words[:70]]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": " ".join(text)}) + "\n" for text in texts)


def test_a_stream_that_ends_on_one_rank_ends_on_all(tiny: TinyWorld, launch: Launch) -> None:
    """Both lanes of rank 1 have two steps, those of rank 0 have more.

    Rank 0 must not start to gather weights and wait for rank 1 forever. With more text the run
    goes on where the lanes were.
    """
    tree = tiny.spec_tree()
    write_uneven_lanes(tiny.folder / "lanes.jsonl")
    tree["data"] |= {  # type: ignore[operator]
        "stream": True,
        "stream_group_documents": 1,
        "train": [{"path": str(tiny.folder / "lanes.jsonl")}],
    }
    tree |= {
        "student": {"layers": "first", "num_layers": 2, "dtype": "float32"},
        "run_dir": str(tiny.folder / "stream"),
        "loss": {"top_k": 16, "sense_weight": 0.0},
        "train": {
            "num_steps": 6,
            "global_batch_blocks": 4,
            "micro_batch_blocks": 2,
            **ON_POLICY,
            "on_policy_fraction": 1.0,
        },
    }
    path = tiny.folder / "stream.toml"
    path.write_text(tomli_w.dumps(tree))
    ended = launch("timeout", "300", *ranks(3, "dskd_ds/train.py", "--spec", str(path)))
    assert ended.code == 2
    assert "the text ends after 2 steps" in ended.output
    assert "Traceback" not in ended.output
    assert [record["step"] for record in read_metrics(tiny.folder / "stream")] == [1, 2]
    assert (tiny.folder / "stream" / "checkpoints" / "step-00000002" / "manifest.json").is_file()
    write_uneven_lanes(tiny.folder / "lanes.jsonl")
    ended = launch("timeout", "300", *ranks(3, "dskd_ds/train.py", "--spec", str(path)))
    assert ended.code == 2
    assert "the text ends after 4 steps" in ended.output
    assert [record["step"] for record in read_metrics(tiny.folder / "stream")] == [1, 2, 3, 4]
