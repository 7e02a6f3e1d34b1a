"""metrics.jsonl and TensorBoard hold every metric, and are continued after a crash."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from dskd_ds.observe import metrics
from dskd_ds.observe.charts import CHARTS, COMBINED_CHARTS
from dskd_ds.observe.metrics import MetricsWriter, read_metrics
from dskd_ds.observe.run_files import RUN_START_FILE, RecordFile
from dskd_ds.spec import load_spec
from tests.unit.observe.made_runs import START, teacher

BASE = "tests/base_run.toml"


def record(step: int) -> dict[str, float]:
    """Return a step's metrics, most of which are the step's number."""
    charted = dict.fromkeys(CHARTS, float(step))
    return {"step": step, "tokens": step * 10, **charted, "skipped": 0.0}


def test_every_metric_has_a_curve_and_every_combined_chart_has_its_curves(tmp_path: Path) -> None:
    spec = load_spec(BASE, [f'run_dir="{tmp_path}"'])
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
    # TensorBoard matches patterns and tags in the same way.
    tags = board.Tags()["scalars"]
    found = [tag for pattern in patterns for tag in tags if re.match(pattern, tag)]
    charts = [keys for tab in COMBINED_CHARTS.values() for keys in tab.values()]
    assert found == [CHARTS[key] for keys in charts for key in keys]


def test_a_repair_counts_the_teachers_and_the_attempt_of_its_run(tmp_path: Path) -> None:
    RecordFile(tmp_path / RUN_START_FILE).write(START)
    RecordFile(tmp_path / "progress" / "teacher-00000-node2-0.json").write(teacher(0).record)
    (tmp_path / "repair").mkdir()
    spec = load_spec(BASE, [f'run_dir="{tmp_path}/repair"'])
    writer = MetricsWriter(spec, 0, 1, whole_run_dir=tmp_path)
    writer.write(record(1))
    writer.close()
    (found,) = read_metrics(tmp_path / "repair")
    assert (found["teachers"], found["attempt"]) == (1, START.attempt)
    board = EventAccumulator(str(tmp_path / "tensorboard" / "repair")).Reload()
    assert len(board.Scalars(CHARTS["loss"])) == 1


def test_a_key_that_only_some_settings_have_may_be_missing(tmp_path: Path) -> None:
    spec = load_spec(BASE, [f'run_dir="{tmp_path}"'])
    writer = MetricsWriter(spec, 0, 1)
    only_bf16 = "unchanged_weights"
    writer.write({key: value for key, value in record(1).items() if key != only_bf16})
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == set(CHARTS.values()) - {CHARTS[only_bf16]}


def test_the_board_says_which_attempt_this_is(tmp_path: Path) -> None:
    spec = load_spec(BASE, [f'run_dir="{tmp_path}"'])
    start = START.model_copy(update={"job_id": "77"})
    RecordFile(tmp_path / RUN_START_FILE).write(start)
    writer = MetricsWriter(spec, 10, 11)
    writer.write(record(11))
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (text,) = board.Tensors("attempts/text_summary")
    assert text.step == 10
    assert text.tensor_proto.string_val[0].decode() == (
        "attempt 2, SLURM job 77, student 0 on node1, from step 10"
    )
    (written,) = read_metrics(tmp_path)
    assert (written["attempt"], written["job_id"]) == (2, 77)


def test_a_resumed_run_replaces_the_records_after_its_checkpoint(tmp_path: Path) -> None:
    spec = load_spec(BASE, [f'run_dir="{tmp_path}"', "monitor.tensorboard=false"])
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


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_it_is_read(tmp_path: Path) -> None:
    spec = load_spec(BASE, [f'run_dir="{tmp_path}"'])
    writer = MetricsWriter(spec, 0, 1)
    writer.write(record(1) | {"loss": math.nan, "grad_norm": math.inf})
    writer.close()
    # A strict parser refuses NaN.
    refuse = pytest.fail
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line["loss"] is None
    assert line["grad_norm"] is None
    (found,) = read_metrics(tmp_path)
    assert math.isnan(found["loss"])
    assert found["lr"] == 1.0


def test_a_run_that_starts_again_replaces_all_records_of_the_crashed_one(tmp_path: Path) -> None:
    for last in (3, 1):
        spec = load_spec(BASE, [f'run_dir="{tmp_path}"'])
        writer = MetricsWriter(spec, 0, 10)
        for step in range(1, last + 1):
            writer.write(record(step) | {"loss": float(last)})
        writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars(CHARTS["loss"])] == [(1, 1.0)]
    assert [r["loss"] for r in read_metrics(tmp_path)] == [1.0]


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_the_last_step_is_written_whatever_the_interval(
    tmp_path: Path, every: int, steps: list[int]
) -> None:
    keys = [
        f'run_dir="{tmp_path}"',
        "monitor.tensorboard=false",
        f"monitor.log_every_steps={every}",
    ]
    writer = MetricsWriter(load_spec(BASE, keys), 0, 5)
    for step in range(1, 6):
        unmeasured = record(step)
        del unmeasured["heldout_loss"]
        writer.write(unmeasured)
    writer.close()
    assert [r["step"] for r in read_metrics(tmp_path)] == steps


def test_a_loss_on_held_out_text_is_written_whatever_the_interval(tmp_path: Path) -> None:
    settings = [f"run_dir={tmp_path}", "monitor.tensorboard=false", "monitor.log_every_steps=9"]
    writer = MetricsWriter(load_spec(BASE, settings), 0, 5)
    for step in range(1, 6):
        made = record(step)
        if step != 2:
            del made["heldout_loss"]
        writer.write(made)
    writer.close()
    assert [(r["step"], r.get("heldout_loss")) for r in read_metrics(tmp_path)] == [
        (2, 2.0),
        (5, None),
    ]


@pytest.mark.parametrize(
    ("active_share", "with_antonyms", "num_warnings"),
    [(0.01, 0.1, 1), (0.5, 0.1, 0), (0.0, 0.0, 0)],
    ids=["idle", "active", "no antonyms"],
)
def test_an_idle_push_is_reported_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    active_share: float,
    with_antonyms: float,
    num_warnings: int,
) -> None:
    spec = load_spec(BASE, [f'run_dir="{tmp_path}"', "monitor.tensorboard=false"])
    writer = MetricsWriter(spec, 0, 39)
    senses = {
        "sense_push_active": active_share,
        "sense_with_antonyms": with_antonyms,
        "sense_with_neighbours": 0.0,
    }
    # Several times as many steps as the decision needs, so a second warning would show.
    for step in range(1, 40):
        writer.write(record(step) | senses)
    writer.close()
    assert capsys.readouterr().err.count("the push hardly ever acts") == num_warnings


def test_a_disk_that_is_full_at_the_start_costs_one_warning_and_the_lines_until_it_is_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = '{"step": 1}\n{"step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(earlier)

    def no_space(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spec = load_spec(BASE, [f'run_dir="{tmp_path}"'])
    with monkeypatch.context() as full_disk:
        full_disk.setattr(metrics, "write_text", no_space)
        full_disk.setattr(metrics, "open_board", no_space)
        writer = MetricsWriter(spec, 1, 4)
        writer.write(record(2))
        assert (tmp_path / "metrics.jsonl").read_text() == earlier
    writer.write(record(3))
    writer.close()
    assert [found["step"] for found in read_metrics(tmp_path)] == [1, 3]
    assert capsys.readouterr().err.count("metrics cannot be written") == 1


def test_a_full_disk_costs_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")  # each write fails: no space left
    spec = load_spec(BASE, [f'run_dir="{tmp_path}"', "monitor.tensorboard=false"])
    writer = MetricsWriter(spec, 0, 3)
    for step in (1, 2, 3):
        writer.write(record(step))
    writer.close()
    printed = capsys.readouterr().err
    assert printed.count("metrics cannot be written ([Errno 28] No space left on device)") == 1
