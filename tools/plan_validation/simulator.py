"""Part d: the simulator against closed forms, and against real runs with faults.

The closed forms are those of tests/unit/costs/simulate. The real runs are kept in
tools/studies/fault_runs.json (fault_runs.py makes them again). Of a real run the simulator gets the
median step without the wait, the teachers' forward time, and when a teacher was killed; the waits
and the time of the whole run are predicted.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

from dskd_ds.costs.simulate.launches import simulate_launches
from dskd_ds.costs.simulate.run_costs import WARM_UP_STEPS, Pauses, RunCosts
from dskd_ds.costs.simulate.steps import SimulatedSteps, simulate_steps
from tools.plan_validation.fault_runs import HEARTBEAT, FaultRun, read_runs
from tools.plan_validation.finding import Cell, Finding, Table, Target, percent

BASE = RunCosts(
    num_students=8,
    num_teachers=2,
    num_steps=200,
    step_tokens=4096,
    num_micro_batches=3,
    own=10.0,
    teacher=1.0,
    transfer=0.25,
)


def closed_forms() -> list[tuple[str, float, float]]:
    """Return (case, closed form, simulated), in seconds."""
    alone = replace(BASE, num_students=1, num_teachers=1)
    bound = replace(BASE, own=1.0, num_students=12, num_teachers=3)
    unequal = replace(
        BASE, own=0.5, num_micro_batches=8, credits=4, slow_teachers={1: 4.0}, num_steps=100
    )
    late = replace(
        BASE, num_students=1, num_micro_batches=1, num_teachers=8, own=1.0, transfer=30.0
    )
    daly, simulated = _daly()
    return [
        (
            "nobody waits: first reply, then every step's own time",
            3 * 1.0 + 0.25 + 200 * 10.0,
            simulate_steps(alone).seconds,
        ),
        (
            "three teachers give the rate: 36 requests of 1 s per step",
            36 / 3,
            simulate_steps(bound).steady(),
        ),
        (
            "a teacher 4 times slower: rates add up",
            64 / (1 + 1 / 4),
            simulate_steps(unequal).steady(),
        ),
        (
            "late replies: one reply and one step per three steps",
            (1.0 + 30.0 + 1.0) / 3,
            simulate_steps(late).steady(),
        ),
        ("failures and saves: Daly (2006), equation 13", daly, simulated),
    ]


def _daly() -> tuple[float, float]:
    """Return the expected and the simulated seconds of a run with failures."""
    interval, save, restart, mean, segments = 600.0, 30.0, 120.0, 5000.0, 12_000
    pauses = Pauses(
        save_every_steps=10,
        save_blocks=save,
        save_written=save,
        failure_interval=mean,
        restart=restart,
    )
    costs = replace(BASE, num_steps=10 * segments, pauses=pauses)
    simulated = simulate_launches(costs, lambda _: interval / 10).seconds
    expected = mean * math.exp(restart / mean) * math.expm1((interval + save) / mean) * segments
    return expected, simulated


def costs_of(run: FaultRun) -> RunCosts:
    """Return what the simulator gets to know of a real run."""
    pairs = zip(run.step_seconds, run.teacher_wait_seconds, strict=True)
    own = [seconds - wait for seconds, wait in pairs]
    fastest = min(run.teacher_seconds)
    factors = {number: each / fastest for number, each in enumerate(run.teacher_seconds)}
    # A silent teacher is found at the first heartbeat after the limit.
    return RunCosts(
        num_students=run.num_students,
        num_teachers=len(run.teacher_seconds),
        num_steps=len(run.step_seconds),
        step_tokens=1,
        num_micro_batches=run.num_micro_batches,
        own=statistics.median(own[WARM_UP_STEPS:]),
        teacher=fastest,
        prefetch_depth=run.prefetch_depth,
        credits=run.credits,
        notice=run.dead_after + HEARTBEAT / 2,
        slow_teachers={number: factor for number, factor in factors.items() if factor > 1},
        killed_teachers={} if run.killed_at is None else {1: run.killed_at},
    )


def seconds_after_warm_up(run: FaultRun) -> float:
    """Return the measured seconds of all steps but the first."""
    return sum(run.step_seconds[WARM_UP_STEPS:])


def simulated_after_warm_up(steps: SimulatedSteps) -> float:
    """Return the same of a simulated run."""
    return sum(step.seconds for step in steps.steps[WARM_UP_STEPS:])


def validate() -> Finding:
    """Compare."""
    forms = closed_forms()
    worst = max(abs(simulated / expected - 1) for _, expected, simulated in forms)
    targets = [Target("worst error against closed forms", 0.01, worst)]
    form_rows: list[list[Cell]] = [
        [name, expected, simulated, percent(simulated / expected - 1)]
        for name, expected, simulated in forms
    ]
    tables = [
        Table(
            "Closed forms",
            "Seconds of a run or of a step.",
            ["case", "closed form", "simulated", "error"],
            form_rows,
        )
    ]
    runs = read_runs()
    remarks = []
    if runs:
        simulated = {run.name: simulate_steps(costs_of(run)) for run in runs}
        errors = {
            run.name: simulated_after_warm_up(simulated[run.name]) / seconds_after_warm_up(run) - 1
            for run in runs
        }
        limit = max(abs(error) for error in errors.values())
        targets.append(Target("worst error of the time of real runs with faults", 0.10, limit))
        tables.append(_run_table(runs, simulated, errors))
        remarks.append(
            "Real runs: 2 students under ZeRO-3, 2 teachers as processes of their own, on this"
            " machine. The teachers sleep until a forward pass has taken its time, so other load"
            f" disturbs them little. The first {WARM_UP_STEPS} steps are left out."
        )
    else:
        remarks.append("The real runs were not made: `python -m tools.plan_validation.fault_runs`.")
    return Finding(
        part="d",
        title="the simulator",
        targets=targets,
        tables=tables,
        remarks=remarks,
        draw=(lambda path: _draw(path, runs)) if runs else None,
    )


def _run_table(
    runs: list[FaultRun], simulated: dict[str, SimulatedSteps], errors: dict[str, float]
) -> Table:
    rows: list[list[Cell]] = []
    for run in runs:
        steps = simulated[run.name]
        wait = statistics.fmean(run.teacher_wait_seconds[WARM_UP_STEPS:])
        simulated_wait = statistics.fmean(step.teacher_wait for step in steps.steps[WARM_UP_STEPS:])
        rows.append(
            [
                run.name,
                ", ".join(f"{seconds:g} s" for seconds in run.teacher_seconds),
                seconds_after_warm_up(run),
                simulated_after_warm_up(steps),
                percent(errors[run.name]),
                wait,
                simulated_wait,
            ]
        )
    columns = ["run", "teachers' forward passes", "measured s", "simulated s", "error"]
    columns += ["mean wait s", "simulated wait s"]
    text = "Seconds of all steps after the warm-up, and the mean wait for teachers per step."
    return Table("Real runs with faults", text, columns, rows)


def _draw(path: Path, runs: list[FaultRun]) -> None:
    """Draw the seconds of every step, measured and simulated."""
    figure, grid = plt.subplots(1, len(runs), figsize=(10, 3.8), layout="constrained")
    for axes, run in zip(grid, runs, strict=True):
        steps = simulate_steps(costs_of(run))
        numbers = range(1, len(run.step_seconds) + 1)
        axes.plot(numbers, run.step_seconds, marker="o", markersize=3, label="measured")
        axes.plot(numbers, [step.seconds for step in steps.steps], label="simulated")
        axes.set_title(run.name)
        axes.set_xlabel("step")
        axes.set_ylabel("seconds")
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
