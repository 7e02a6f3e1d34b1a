"""A whole tiny run as in the paper, on three students, against one process of plain torch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from dskd_ds.observe.metrics import read_metrics
from tests.conftest import WORDS, TinyWorld
from tests.processes import single_process
from tests.processes.conftest import Launch, dskd

pytestmark = [pytest.mark.process, pytest.mark.slow]

NUM_CHATS, SEED, LR, DROPOUT = 12, 3, 2e-3, 0.1


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Conversations of very different lengths, whose last answer was cut."""
    draw = random.Random(0)
    lines = []
    for number in range(NUM_CHATS):
        words = draw.choices(WORDS, k=3 + 12 * number)
        turns = [("user", " ".join(words)), ("assistant", draw.choice(WORDS))]
        messages = [{"role": role, "content": text} for role, text in turns]
        lines.append(json.dumps({"messages": messages, "open_end": True}))
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def paper_tree(tiny: TinyWorld, folder: Path, chats: Path) -> dict[str, Any]:
    """The paper's settings in the tiny world."""
    tree: dict[str, Any] = tiny.spec_tree()
    tree |= {"run_dir": str(folder / "run"), "seed": SEED, "deepspeed": "ds_configs/zero2.json"}
    tree["teacher"]["dtype"] = "bfloat16"
    tree["student"] = {
        "layers": "first",
        "num_layers": 2,
        "train_last_layers": 1,
        "dtype": "bfloat16",
        "precision": "bf16",
        "attention_dropout": DROPOUT,
    }
    tree["data"] = {
        "train": [{"path": str(chats), "format": "chat"}],
        "chat_template": "plain",
        "heldout_fraction": 0.0,
        "packing": "none",
        "max_lost_fraction": 0.0,
    }
    tree["senses"] |= {
        "candidates": "lexical",
        "min_positions": 25,
        "positions": "independent",
        "position_rounding": "down",
        "own_in_pull": "with_synonyms",
        "own_in_push": "with_antonyms",
    }
    tree["loss"] = {"signal": "exact", "temperature": 2.0, "normalise": "sequence"}
    tree["optimizer"] = {"lr": LR, "max_grad_norm": 0.0}
    tree["train"] = {"num_epochs": 2.0, "global_batch_blocks": 3}
    tree["topology"]["num_students"] = 3
    return tree


def test_losses_equal_those_of_one_process(
    tiny: TinyWorld, launch: Launch, dictionary: Path, tmp_path: Path, chats: Path
) -> None:
    """With attention dropout, and all of AdamW in bfloat16.

    The ranks' bfloat16 gradients are added in another order, so later steps are only close.
    """
    spec_file = tmp_path / "paper.toml"
    spec_file.write_text(tomli_w.dumps(paper_tree(tiny, tmp_path, chats)))
    assert launch(*dskd("train", str(spec_file)), marker=str(tmp_path)).code == 0
    records = read_metrics(tmp_path / "run")
    expected = single_process.train(
        teacher_folder=str(tiny.folder / "teacher"),
        student_folder=str(tmp_path / "run" / "student_init"),
        chats=chats,
        senses=dictionary,
        dtype=torch.bfloat16,
        dropout=DROPOUT,
        lr=LR,
        seed=SEED,
    )
    assert len(records) == len(expected) == NUM_CHATS * 2 // 3
    print(json.dumps([(r["loss_ce"], r["loss_kd"], r["loss_sense"]) for r in records]))
    print(json.dumps(expected))
    for number, (record, losses) in enumerate(zip(records, expected, strict=True)):
        found = {name: record[name] for name in losses}
        tolerance = 1e-5 if number == 0 else 1e-3
        assert found == pytest.approx(losses, rel=tolerance), number
    assert 0 < records[0]["unchanged_weights"] < 1
    assert records[-1]["loss"] < records[0]["loss"]
