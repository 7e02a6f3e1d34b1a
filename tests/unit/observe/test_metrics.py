"""metrics.jsonl and TensorBoard: complete, and continued after a crash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from dskd_ds.observe.metrics import CHARTS, COMBINED_CHARTS, MetricsWriter, read_metrics
from dskd_ds.spec import load_spec

QUICKSTART = "ds_configs/runs/quickstart.toml"


def record(step: int) -> dict[str, float]:
    return {"step": step, "tokens": step * 10, **dict.fromkeys(CHARTS, float(step)), "skipped": 0.0}


def test_every_metric_has_a_chart_and_every_layout_curve_exists(tmp_path: Path) -> None:
    spec = load_spec(QUICKSTART, [f'run_dir="{tmp_path}"'])
    writer = MetricsWriter(spec, 0, 2)
    for step in (1, 2):
        writer.write(record(step))
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == set(CHARTS.values())
    assert [event.value for event in board.Scalars(CHARTS["loss"])] == [1.0, 2.0]
    assert "run spec/text_summary" in board.Tags()["tensors"]
    layout = layout_pb2.Layout.FromString(
        board.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    patterns = [
        pattern
        for category in layout.category
        for chart in category.chart
        for pattern in chart.multiline.tag
    ]
    found = [
        tag for pattern in patterns for tag in board.Tags()["scalars"] if re.match(pattern, tag)
    ]  # as TensorBoard does it
    assert found == [
        CHARTS[key]
        for charts in COMBINED_CHARTS.values()
        for keys in charts.values()
        for key in keys
    ]


def test_metrics_go_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    spec = load_spec(QUICKSTART, [f'run_dir="{tmp_path}"', "monitor.tensorboard=false"])
    writer = MetricsWriter(spec, 0, 3)
    for step in (1, 2, 3):
        writer.write(record(step))
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut by a crash
    writer = MetricsWriter(spec, 2, 3)
    writer.write(record(3))
    writer.close()
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_run_that_starts_anew_leaves_nothing_of_the_one_that_crashed(tmp_path: Path) -> None:
    for last in (3, 1):
        writer = MetricsWriter(load_spec(QUICKSTART, [f'run_dir="{tmp_path}"']), 0, 10)
        for step in range(1, last + 1):
            writer.write(record(step) | {"loss": float(last)})
        writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars(CHARTS["loss"])] == [(1, 1.0)]
    assert [r["loss"] for r in read_metrics(tmp_path)] == [1.0]


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_the_last_step_is_always_written(tmp_path: Path, every: int, steps: list[int]) -> None:
    keys = [
        f'run_dir="{tmp_path}"',
        "monitor.tensorboard=false",
        f"monitor.log_every_steps={every}",
    ]
    writer = MetricsWriter(load_spec(QUICKSTART, keys), 0, 5)
    for step in range(1, 6):
        writer.write(record(step))
    writer.close()
    assert [r["step"] for r in read_metrics(tmp_path)] == steps


def test_an_idle_push_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(active: float, antonyms: float) -> int:
        writer = MetricsWriter(
            load_spec(QUICKSTART, [f'run_dir="{tmp_path}"', "monitor.tensorboard=false"]), 0, 39
        )
        for step in range(1, 40):
            writer.write(
                record(step)
                | {
                    "sense_push_active": active,
                    "sense_with_antonyms": antonyms,
                    "sense_with_neighbours": 0.0,
                }
            )
        writer.close()
        return capsys.readouterr().err.count("the push hardly ever acts")

    assert said(active=0.01, antonyms=0.1) == 1
    assert said(active=0.5, antonyms=0.1) == 0
    assert said(active=0.0, antonyms=0.0) == 0  # nothing to push from is another matter
