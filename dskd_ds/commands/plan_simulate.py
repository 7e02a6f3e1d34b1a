"""`dskd plan --simulate`: the run with every request, save, failure and restart."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dskd_ds.costs.clusters import Cluster
from dskd_ds.costs.constants import Constants
from dskd_ds.costs.plan import run_speed, run_work
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.costs.simulate.run import SimulatedRun, simulate
from dskd_ds.costs.simulate.run_costs import planned_costs
from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec


def simulate_plan(
    spec: RunSpec,
    shapes: RunShapes,
    cluster: Cluster | None,
    constants: Constants,
    tokens: int | None,
) -> SimulatedRun:
    """Simulate a planned run. tokens: a budget, else the spec's length.

    Raises InputError if the run asks no teacher, or if the cluster or the number of steps is
    unknown.
    """
    if not spec.asks_teachers:
        raise InputError(
            '--simulate: [teacher] source = "cache", so there are no requests to teachers, which'
            " the simulation follows.\n  plan this run without --simulate."
        )
    if cluster is None or cluster.architecture == "measured":
        raise InputError("--simulate: the cluster is unknown.\n  name one: --cluster NAME or FILE.")
    speed = run_speed(spec, shapes, cluster, constants, tokens)
    if speed.num_steps is None:
        raise InputError(
            "--simulate: the number of steps is unknown, because the run is given in epochs.\n"
            "  add --tokens N, or set [train] num_steps."
        )
    work, teacher = run_work(spec, shapes)
    costs = planned_costs(
        spec,
        work,
        teacher,
        cluster=cluster,
        num_steps=speed.num_steps,
        num_teachers=speed.num_teachers,
        constants=constants,
    )
    return simulate(costs)


def simulation_text(run: SimulatedRun, constants: Constants) -> str:
    """Return the simulated run in some lines."""
    launches = run.launches
    shares = {
        "steps that are kept": launches.trained,
        f"steps repeated after {launches.num_failures} failures": launches.repeated,
        "saves": launches.saved,
        "restarts": launches.restarted,
        "without any teacher": launches.without_teachers,
    }
    parts = [f"{name} {seconds / launches.seconds:.1%}" for name, seconds in shares.items()]
    return "\n".join(
        [
            f"simulated: {run.hours:,.1f} hours, {run.tokens_per_second:,.0f} tokens/s over all",
            f"  a step takes {run.step_seconds:.2f} s, {run.teacher_wait_seconds:.2f} s of it"
            f" waiting for teachers; teachers compute {run.teacher_busy:.0%} of the time",
            f"  time: {', '.join(parts)}",
            f"  assumed: a failure per {constants.gpu_hours_per_failure:,.0f} GPU-hours,"
            f" {constants.restart_seconds:.0f} s until training goes on",
        ]
    )


def simulation_json(run: SimulatedRun) -> dict[str, Any]:
    """Return the simulated run as data; times in seconds."""
    return {**asdict(run), "hours": run.hours, "lost_share": run.lost_share}
