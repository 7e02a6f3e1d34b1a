"""Predicted beside measured, for the report of a run."""

from __future__ import annotations

import statistics

from dskd_ds.costs.calibration import calibration_here
from dskd_ds.costs.memory import Device, student_memory
from dskd_ds.costs.plan import run_speed
from dskd_ds.costs.run_shapes import RunShapes, run_shapes
from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec

GIB = 1 << 30


def plan_facts(spec: RunSpec, records: list[dict[str, float]]) -> dict[str, str]:
    """Return what the plan predicts for a run beside what was measured.

    Nothing is returned where there is no prediction: for models without a formula, for records of
    older versions, and for times on a machine that was not calibrated.
    """
    try:
        shapes = run_shapes(spec)
        return memory_fact(spec, shapes, records[-1]) | time_fact(spec, shapes, records)
    except InputError:
        return {}


def memory_fact(spec: RunSpec, shapes: RunShapes, last: dict[str, float]) -> dict[str, str]:
    """Return the memory of the student that took most, and the prediction."""
    measured = last.get("engine_bytes")
    if not measured:
        return {}
    device: Device = "gpu" if last.get("device_bytes") else "cpu"
    predicted = student_memory(spec, shapes, device).total
    text = f"{measured / GIB:.2f} GiB, predicted {predicted / GIB:.2f}"
    return {"student, optimiser and steps took": f"{text} ({predicted / measured - 1:+.0%})"}


def time_fact(spec: RunSpec, shapes: RunShapes, records: list[dict[str, float]]) -> dict[str, str]:
    """Return the median of the steps' times and the prediction, if this machine is calibrated.

    The first step is left out, because it waits for the teacher to start.
    """
    calibration, _ = calibration_here()
    seconds = [record["step_seconds"] for record in records[1:] if "step_seconds" in record]
    if calibration is None or not seconds or records[-1].get("device_bytes"):
        return {}
    measured = statistics.median(seconds)
    speed = run_speed(spec, shapes, calibration.cluster, calibration.constants)
    predicted = speed.step.total
    text = f"{measured:.2f} s, predicted {predicted:.2f} s ({predicted / measured - 1:+.0%})"
    return {"a step": text}
