"""The learning rate over a run."""

from __future__ import annotations

import itertools

import pytest

from dskd_ds.spec import load_spec
from dskd_ds.student.schedule import lr_at

BASE = "tests/base_run.toml"


def test_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    spec = load_spec(
        BASE,
        ["optimizer.lr=1.0", "optimizer.warmup_fraction=0.1", "optimizer.min_lr_fraction=0.2"],
    )
    rates = [lr_at(spec, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.6)
    assert 0.2 < rates[99] < 0.21
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
