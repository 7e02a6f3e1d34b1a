"""Held-out scores of several models at once, against a slow version that reads one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from dskd_ds.commands import cli
from dskd_ds.data.blocks import heldout_blocks
from dskd_ds.evaluation.heldout import score_heldout
from dskd_ds.evaluation.items import TEACHER_ENTROPY, items_path, read_items, write_items
from dskd_ds.evaluation.result import quarter_means, summarise
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.depth import student_init
from tests.conftest import TinyWorld


def slow_scores(spec: RunSpec, teacher: str, student: str) -> np.ndarray:
    """[3, N]: cross-entropy, KL and the teacher's entropy of every target, in float64."""
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
        for path in (teacher, student)
    ]
    blocks = heldout_blocks(spec.data, RunModels.of(spec).teacher.tokenizer)
    num_blocks = min(len(blocks), spec.eval.num_tokens // spec.data.block_tokens)
    stride = len(blocks) // num_blocks
    ce: list[float] = []
    kl: list[float] = []
    entropy: list[float] = []
    for number in range(num_blocks):
        block = blocks[number * stride]
        ids = torch.tensor(block["input_ids"])
        ends = [*block["segment_starts"][1:], len(ids)]
        for start, end in zip(block["segment_starts"], ends, strict=True):
            # A document is read alone: attention never crosses to another one.
            with torch.inference_mode():
                log_p, log_q = (
                    torch.log_softmax(model(ids[None, start:end]).logits[0, :-1], dim=-1)
                    for model in models
                )
            targets = ids[start + 1 : end]
            ce += (-log_q[range(len(targets)), targets]).tolist()
            kl += (log_p.exp() * (log_p - log_q)).sum(dim=-1).tolist()
            entropy += torch.distributions.Categorical(logits=log_p).entropy().tolist()
    return np.array([ce, kl, entropy])


def test_scores_are_those_of_a_slow_version(tiny: TinyWorld, tmp_path: Path) -> None:
    spec = load_spec(tiny.spec_file, [f"run_dir={tmp_path}", "student.layers=first"])
    models = RunModels.of(spec)
    student = student_init(spec, models)
    copy = NamedModel(models.teacher.path, dtype="float32")
    found = score_heldout(spec, models, {"cut": student, "copy": copy})
    ce, kl, entropy = slow_scores(spec, models.teacher.path, student.path)
    assert found["cut"].values["cross_entropy"] == pytest.approx(ce, abs=1e-4)
    assert found["cut"].values["kl"] == pytest.approx(kl, abs=1e-4)
    assert found["cut"].values[TEACHER_ENTROPY] == pytest.approx(entropy, abs=1e-4)
    assert np.array_equal(
        found["copy"].values["cross_entropy"], found["teacher"].values["cross_entropy"]
    )
    assert np.abs(found["copy"].values["kl"]).max() < 1e-6
    assert found["cut"].digest == found["teacher"].digest
    write_items(found["cut"], tmp_path / "cut.parquet")
    score = summarise(read_items(tmp_path / "cut.parquet"))
    unsure = entropy >= np.quantile(entropy, 0.75)
    assert score.kl_by_entropy[-1] == pytest.approx(kl[unsure].mean(), rel=0.02)
    assert np.mean(score.kl_by_entropy) == pytest.approx(score.kl, rel=0.02)


def test_quarters_are_sorted_by_the_other_values() -> None:
    values, order = np.array([8.0, 1, 7, 2, 6, 3, 5, 4]), np.array([1.0, 8, 2, 7, 3, 6, 4, 5])
    assert quarter_means(values, order) == [7.5, 5.5, 3.5, 1.5]
    assert quarter_means(values, None) == quarter_means(values[:3], order[:3]) == []


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["teacher={folder}"], "teacher is the name of the run's teacher, which KL is measured to"),
        (["prompt={folder}"], "prompt is the name of a sample's text"),
        (["before", "before={folder}"], "the name before is given more than once"),
        (["a:b={folder}"], '"a:b" cannot be a name'),
    ],
)
def test_a_model_takes_no_name_of_the_evaluation(
    tiny: TinyWorld, models: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [model.format(folder=tiny.folder / "teacher") for model in models]
    argv = [option for model in named for option in ("--model", model)]
    assert cli.main(["eval", str(tiny.spec_file), *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_may_stand_for_a_student_of_the_run(tiny: TinyWorld, tmp_path: Path) -> None:
    """`dskd sweep` names the trained student so."""
    folder = tiny.folder / "teacher"
    argv = ["eval", str(tiny.spec_file), "--set", f"run_dir={tmp_path}"]
    assert cli.main([*argv, "--set", "eval.num_samples=0", "--model", f"after={folder}"]) == 0
    scores = read_items(items_path(tmp_path, "heldout", "after"))
    assert scores.values["kl"].max() == pytest.approx(0, abs=1e-5)
