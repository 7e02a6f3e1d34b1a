"""The report shows predicted beside measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd_ds.commands.report_plan import plan_facts
from dskd_ds.costs.calibration import write_calibration
from dskd_ds.costs.memory import student_memory
from dskd_ds.costs.run_shapes import run_shapes
from dskd_ds.spec import RunSpec, load_spec
from tests.unit.bench.test_calibrate import HERE, MEASURED
from tests.unit.commands.test_plan import CONFIG

GIB = 1 << 30


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setenv("DSKD_HOME", str(tmp_path / "home"))
    model = f"teacher.model={tmp_path / 'llama'}"
    return load_spec("tests/base_run.toml", [model, f"run_dir={tmp_path}"])


def records(engine_bytes: float, step_seconds: float) -> list[dict[str, float]]:
    record = {"engine_bytes": engine_bytes, "step_seconds": step_seconds, "device_bytes": 0.0}
    return [record | {"step_seconds": 99.0}, record, record]


def test_memory_is_compared(spec: RunSpec) -> None:
    predicted = student_memory(spec, run_shapes(spec), "cpu").total
    facts = plan_facts(spec, records(predicted / 2, 1.0))
    assert "(+100%)" in facts["student, optimiser and steps took"]
    assert "a step" not in facts  # this machine is not calibrated


def test_times_are_compared_once_the_machine_is_calibrated(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dskd_ds.costs.calibration.gpu_memory_bytes", list)
    write_calibration(MEASURED)  # of another machine
    assert "a step" not in plan_facts(spec, records(GIB, 7.0))
    write_calibration(HERE)
    step = plan_facts(spec, records(GIB, 7.0))["a step"]
    assert step.startswith("7.00 s, predicted ")


def test_older_records_and_unknown_models_have_no_prediction(spec: RunSpec) -> None:
    assert plan_facts(spec, [{"step": 1.0}]) == {}
    gone = spec.teacher.model_copy(update={"model": "/nowhere/model"})
    assert plan_facts(spec.model_copy(update={"teacher": gone}), records(GIB, 1.0)) == {}
