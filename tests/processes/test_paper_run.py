"""A whole tiny run as in the paper, on three students, against one process of plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w
import torch

from dskd_ds.observe.metrics import read_metrics
from tests.conftest import TinyWorld
from tests.paper_world import DROPOUT, LR, NUM_CHATS, SEED, paper_tree, write_chats
from tests.processes import single_process
from tests.processes.conftest import Launch, ranks

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_losses_equal_those_of_one_process(
    tiny: TinyWorld, launch: Launch, dictionary: Path, tmp_path: Path
) -> None:
    """With attention dropout, and all of AdamW in bfloat16.

    The ranks' bfloat16 gradients are added in another order, so later steps are only close.
    """
    chats = write_chats(tmp_path)
    spec_file = tmp_path / "paper.toml"
    spec_file.write_text(tomli_w.dumps(paper_tree(tiny, tmp_path, chats)))
    command = ranks(4, "dskd_ds/train.py", "--spec", str(spec_file))
    assert launch(*command, marker=str(tmp_path)).code == 0
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
    for number, (record, losses) in enumerate(zip(records, expected, strict=True)):
        found = {name: record[name] for name in losses}
        tolerance = 1e-5 if number == 0 else 1e-3
        assert found == pytest.approx(losses, rel=tolerance), number
    assert 0 < records[0]["unchanged_weights"] < 1
    assert records[-1]["loss"] < records[0]["loss"]
