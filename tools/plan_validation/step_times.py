"""Part b: the time of a step here, and from which student on nobody waits for the teacher.

The runs are kept in tools/studies/plan_step_runs.json (step_runs.py makes them again), together
with the speeds of their machine, so the predictions are the same everywhere.
"""

from __future__ import annotations

import statistics

import numpy as np

from dskd_ds.bench.real_text import QUICKSTART
from dskd_ds.costs.calibration import Measured, cluster_of, constants_of
from dskd_ds.costs.plan import Speed, run_speed
from dskd_ds.costs.run_shapes import run_shapes
from dskd_ds.spec import load_spec
from tools.plan_validation.finding import Cell, Finding, Table, Target, percent
from tools.plan_validation.step_runs import CASES, StepCase, StepRuns, read_runs

NO_WAIT_SHARE = 0.9
"""Share of a step's time from which on the student's own work hides the teacher's."""


def validate() -> Finding:
    """Compare the runs that were made with the plan."""
    measured = read_runs()
    if measured is None:
        remark = "The runs were not made: `python -m tools.plan_validation.step_runs`."
        return _finding(None, None, [], [remark])
    rows: list[list[Cell]] = []
    errors = []
    for case in CASES:
        run, speed = measured.runs[case.name], predict(case, measured.machine)
        errors.append(speed.step.total / run.step_seconds - 1)
        rows.append(
            [
                case.name,
                run.step_seconds,
                speed.step.total,
                percent(errors[-1]),
                run.own_seconds,
                speed.step.own,
            ]
        )
    flip = measured_flip(measured)
    ratio, plan_flip = predicted_ratio(measured.machine, flip), predicted_flip(measured.machine)
    remarks = [
        f"Each run: one student and one teacher on {measured.machine.cpu}, one core each.",
        "A student with few layers waits for the teacher. A line through the student's own"
        f" seconds reaches the teacher's at {flip:.1f} layers, where it needs exactly 1 teacher;"
        f" the plan says that it needs {ratio:.2f}.",
        f"In layers, the plan's flip is at {plan_flip:.1f} ({percent(plan_flip / flip - 1)}). A"
        " further layer adds only its forward pass to these students, so small errors of both times"
        " move the flip by many layers.",
    ]
    return _finding(errors, ratio - 1, rows, remarks)


def predict(case: StepCase, machine: Measured) -> Speed:
    """Return what the plan says about a run on a machine."""
    spec = load_spec(QUICKSTART, case.settings)
    return run_speed(spec, run_shapes(spec), cluster_of(machine), constants_of(machine))


def measured_flip(measured: StepRuns) -> float:
    """Return the student's layers from which on it does not wait, by the measured runs.

    The run with the fewest layers waits most, so its whole step is the teacher's time.
    Raises ValueError if that run does not wait.
    """
    cases = [case for case in CASES if case.gives_flip]
    own = [measured.runs[case.name].own_seconds for case in cases]
    teacher = measured.runs[cases[0].name].step_seconds
    if own[0] > NO_WAIT_SHARE * teacher:
        raise ValueError(f"the student with {cases[0].num_layers} layers hardly waits")
    return _layers_at(teacher, [case.num_layers for case in cases], own)


def predicted_flip(machine: Measured) -> float:
    """Return the same number of layers by the plan."""
    layers, own, teacher = _predicted(machine)
    return _layers_at(teacher, layers, own)


def predicted_ratio(machine: Measured, num_layers: float) -> float:
    """Return how many teachers a student of so many layers needs, by the plan."""
    layers, own, teacher = _predicted(machine)
    slope, start = np.polyfit(layers, own, 1)
    return float(teacher / (start + slope * num_layers))


def _predicted(machine: Measured) -> tuple[list[int], list[float], float]:
    """Return layers and predicted own seconds of the students, and the teacher's seconds."""
    cases = [case for case in CASES if case.gives_flip]
    speeds = [predict(case, machine) for case in cases]
    own = [speed.step.own for speed in speeds]
    # A step's requests are answered one after the other.
    teacher = speeds[0].teachers_needed * own[0]
    return [case.num_layers for case in cases], own, teacher


def _layers_at(seconds: float, layers: list[int], own: list[float]) -> float:
    """Return the layers at which a line through the students' seconds reaches a time."""
    slope, start = np.polyfit(layers, own, 1)
    return float((seconds - start) / slope)


def _finding(
    errors: list[float] | None, flip: float | None, rows: list[list[Cell]], remarks: list[str]
) -> Finding:
    """Return the part's targets and its table; None: not measured."""
    sizes = [abs(error) for error in errors or []]
    columns = ["student", "measured s", "predicted s", "error", "without waiting", "predicted"]
    explanation = (
        "Seconds of a step, median after the warm-up. The teacher has 30 layers; its signal is the"
        " top 64; a step has two rows of 256 tokens unless the row says otherwise."
    )
    return Finding(
        part="b",
        title="step time on this machine",
        targets=[
            Target(
                "median error of a step's time", 0.10, statistics.median(sizes) if sizes else None
            ),
            Target("worst error of a step's time", 0.20, max(sizes, default=None)),
            Target(
                "error of the teachers per student where waiting flips",
                0.15,
                None if flip is None else abs(flip),
            ),
        ],
        tables=[Table("Runs", explanation, columns, rows)] if rows else [],
        remarks=remarks,
    )
