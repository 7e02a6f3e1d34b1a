"""Part b of the validation: the runs can be planned, and the flip is found in made-up runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.costs.calibration import Measured
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
SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def known_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The quickstart's model need not have been fetched."""
    monkeypatch.setenv("DSKD_HOME", str(tmp_path))
    monkeypatch.setattr(step_times, "run_shapes", _shapes)


def _shapes(spec: object) -> object:
    """Return the shapes of a run whose teacher is SmolLM2."""
    from dskd_ds.costs import run_shapes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_shapes, "read_config_file", lambda *_: SMOLLM2)
        return run_shapes.run_shapes(spec)  # type: ignore[arg-type]


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
