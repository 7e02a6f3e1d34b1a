"""The shipped constants are those that `tools/validate_plan.py` fits to public figures."""

from __future__ import annotations

import statistics

import pytest

from dskd_ds.costs.constants import DEFAULT, constant_fields
from tools.plan_validation.public_rows import BOUNDS, counted_rows, fit, memory_differences


def test_the_shipped_constants_are_the_fitted_ones() -> None:
    rows = counted_rows()

    fitted = fit(rows)

    for name in BOUNDS:
        assert getattr(DEFAULT, name) == pytest.approx(getattr(fitted, name), rel=0.01), name
        metadata = constant_fields()[name].metadata
        assert "fitted" in metadata["source"]
    assert statistics.median(abs(row.error(DEFAULT)) for row in rows) < 0.12


def test_rows_that_count_are_of_the_kind_that_the_file_describes() -> None:
    rows = counted_rows()

    assert len(rows) > 100
    assert len({row.source for row in rows}) == 5
    assert max(row.row_tokens for row in rows) <= 8192


def test_the_memory_that_sharding_saves_is_that_of_torchtitan() -> None:
    for _, measured, saved in memory_differences():
        assert saved == pytest.approx(measured, rel=0.15)
