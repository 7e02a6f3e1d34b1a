"""A run from the cache alone: filled ahead by two ranks, its losses are a live run's bits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dskd_ds.commands.cli import main
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch

# Slow: three launches. The four signals are compared in tests/unit/signal_cache.
pytestmark = [pytest.mark.process, pytest.mark.slow]

DSKD = [sys.executable, "-m", "dskd_ds.commands.cli"]


def test_a_run_from_the_cache_has_the_losses_of_a_live_one(
    tiny: TinyWorld, tmp_path: Path, launch: Launch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two epochs of the short text, one student, two blocks per micro-batch."""
    shared = [
        f"data.train=[{{path = '{tiny.folder / 'heldout.jsonl'}', title_field = 'title'}}]",
        "data.heldout=[]",
        "loss.sense_weight=0",
        "student.layers=first",
        "topology.num_students=1",
        "train.num_steps=6",
        "train.micro_batch_blocks=2",
        "checkpoint.every_steps=0",
    ]
    kept = [
        f"teacher.cache_dir={tmp_path / 'kept'}",
        "teacher.source=cache",
        "topology.num_teachers=0",
    ]
    arms = {"live": ["teacher.block_by_block=true"], "cache": kept}
    filling = override_argv([*shared, *kept, f"run_dir={tmp_path / 'filled'}"])
    filled = launch(*DSKD, "teach", str(tiny.spec_file), "--ranks", "2", *filling)
    assert filled.code == 0
    assert "rank 1:" in filled.output
    for arm, settings in arms.items():
        overrides = override_argv([*shared, *settings, f"run_dir={tmp_path / arm}"])
        assert launch(*DSKD, "train", str(tiny.spec_file), *overrides).code == 0
    records = {arm: read_metrics(tmp_path / arm) for arm in arms}
    for name in ("loss", "loss_ce", "loss_kd", "grad_norm"):
        live, cached = ([record[name] for record in records[arm]] for arm in arms)
        assert live == cached
    assert len(records["cache"]) == 6
    assert all(record["cache_hit_rate"] == 1 for record in records["cache"])
    assert all(record["link_bytes"] == 0 for record in records["cache"])
    assert all("cache_hit_rate" not in record for record in records["live"])
    assert main(["cache", str(tiny.spec_file), *filling, "--verify"]) == 0
    assert "0 places are damaged" in capfd.readouterr().out
