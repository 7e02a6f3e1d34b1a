"""Part b of the validation: the runs can be planned, and the flip is found in made-up runs."""

from __future__ import annotations

import pytest

from dskd_ds.costs import run_shapes
from dskd_ds.costs.calibration import Measured
from dskd_ds.models.public_models import public_models
from tools.plan_validation import step_times
from tools.plan_validation.step_runs import CASES, StepRun, StepRuns

MACHINE = Measured(
    flops_per_second=5e10,
    memory_bandwidth=8e9,
    traffic_eager=3.0,
    head_passes=12.0,
    teacher_head_passes=3.0,
    all_reduce_bandwidth=1e9,
    hop_seconds=1e-4,
    disk_write_bandwidth=1e8,
    num_ranks=2,
    cpu="a CPU",
    num_cores=2,
    memory_bytes=24 << 30,
)


@pytest.fixture(autouse=True)
def known_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickstart's model need not have been fetched."""
    smollm2 = public_models()["SmolLM2-135M"].config
    monkeypatch.setattr(run_shapes, "read_config_file", lambda *_: smollm2)


def made_up(seconds_per_layer: float, start: float, teacher: float) -> StepRuns:
    """Return runs whose own seconds are a line through the student's layers."""
    runs = {}
    for case in CASES:
        own = start + seconds_per_layer * case.num_layers
        runs[case.name] = StepRun(step_seconds=max(own, teacher), own_seconds=own)
    return StepRuns(MACHINE, runs)


def test_the_flip_is_where_the_students_seconds_reach_the_teachers() -> None:
    assert step_times.measured_flip(made_up(0.1, 0.5, teacher=1.5)) == pytest.approx(10)
    with pytest.raises(ValueError, match="hardly waits"):
        step_times.measured_flip(made_up(0.1, 2.0, teacher=1.5))


def test_runs_that_are_as_planned_have_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {case.name: step_times.predict(case, MACHINE) for case in CASES}
    assert speeds[CASES[0].name].step.teacher_wait > 0
    assert speeds[CASES[2].name].step.teacher_wait == 0
    runs = {
        name: StepRun(step_seconds=speed.step.total, own_seconds=speed.step.own)
        for name, speed in speeds.items()
    }
    monkeypatch.setattr(step_times, "read_runs", lambda: StepRuns(MACHINE, runs))
    finding = step_times.validate()
    assert [target.reached for target in finding.targets] == pytest.approx([0, 0, 0], abs=0.02)
    assert len(finding.tables[0].rows) == len(CASES)


def test_without_runs_the_targets_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_times, "read_runs", lambda: None)
    assert {target.verdict for target in step_times.validate().targets} == {"not measured"}
