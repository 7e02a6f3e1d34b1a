"""The bench of growth: the curves that need no launch, the plot, and the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.bench import growth, pack
from dskd_ds.bench.growth_plot import Curve, draw_curves


def test_the_look_up_is_measured_on_dictionaries_of_each_size(tmp_path: Path) -> None:
    curve = growth.lookup_curve(tmp_path, [40, 80])
    assert [size for size, _ in curve.points] == [40, 80]
    assert all(microseconds > 0 for _, microseconds in curve.points)


def test_a_figure_is_the_ratio_of_the_last_point_to_the_first(tmp_path: Path) -> None:
    curve = Curve("look-up", "vocabulary", "microseconds per position", [(10, 2.0), (40, 3.0)])
    plot = tmp_path / "new" / "growth.png"
    draw_curves([curve, curve], plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    figure = growth._figure(curve, str(plot))
    assert (figure.key, figure.value, figure.better) == ("growth_lookup", 1.5, "lower")
    assert figure.notes == {"10 vocabulary": "2", "40 vocabulary": "3", "plot": str(plot)}


def test_packing_is_compared_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack.os, "sched_getaffinity", lambda _: {0, 1})
    rates = {1: [90.0, 100.0, 110.0], 2: [180.0, 190.0, 100.0], 4: [170.0, 160.0, 180.0]}
    two, four = pack._speedups(rates, num_bytes=1)
    assert (two.value, four.value) == (0.9, 0.85)
    assert two.reached
    assert four.reached
