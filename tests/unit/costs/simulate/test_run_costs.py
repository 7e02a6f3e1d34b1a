"""What the simulator gets to know of a run: from the plan, or from the run's own metrics."""

from __future__ import annotations

import pytest

from dskd_ds.costs.clusters import open_cluster
from dskd_ds.costs.simulate.run import simulate
from dskd_ds.costs.simulate.run_costs import (
    Pauses,
    RunCosts,
    measured_costs,
    planned_costs,
    without_faults,
)
from dskd_ds.costs.time import save_seconds, step_time, teacher_time
from dskd_ds.costs.work import step_work, teacher_work
from dskd_ds.errors import InputError
from dskd_ds.spec import load_spec
from tests.unit.costs.test_time import SHAPE

H100 = open_cluster("h100-80")
SPEC = load_spec("ds_configs/runs/llama3_70b_to_8b.toml")


def planned(num_teachers: int) -> RunCosts:
    work = step_work(SPEC, SHAPE, teacher_width=8192, zero_stage=3)
    teacher = teacher_work(SPEC, SHAPE, bytes_per_token=700.0)
    return planned_costs(
        SPEC, work, teacher, cluster=H100, num_steps=8000, num_teachers=num_teachers
    )


def test_the_plan_gives_the_costs_of_a_run() -> None:
    costs = planned(num_teachers=8)

    work = step_work(SPEC, SHAPE, teacher_width=8192, zero_stage=3)
    teacher = teacher_work(SPEC, SHAPE, bytes_per_token=700.0)
    assert costs.num_students == 32
    assert costs.num_micro_batches == 2
    assert costs.step_tokens == 128 * 4096
    assert costs.own == step_time(work, H100).total
    assert costs.teacher == teacher_time(teacher, H100).forward
    assert costs.transfer == costs.receiving == teacher_time(teacher, H100).transfer
    assert costs.pauses.save_every_steps == 500
    assert costs.pauses.save_every_seconds == 900
    assert costs.pauses.save_blocks == save_seconds(work, H100)[0]
    assert costs.pauses.failure_interval == pytest.approx(50_700 * 3600 / 32)


def test_a_planned_run_is_simulated_with_its_failures() -> None:
    run = simulate(planned(num_teachers=16))
    undisturbed = simulate(without_faults(planned(num_teachers=16)))

    assert undisturbed.lost_share == pytest.approx(0.0)
    assert run.hours > undisturbed.hours
    assert run.launches.saved > 0


def test_metrics_give_the_step_without_the_wait() -> None:
    slow_start = [{"step_seconds": 60.0, "teacher_wait_seconds": 50.0, "step_tokens": 4096.0}] * 3
    steady = [
        {"step_seconds": 3.0 + wait, "teacher_wait_seconds": wait, "step_tokens": 4096.0}
        for wait in (0.5, 1.0, 2.0)
    ]

    costs = measured_costs(
        SPEC, [*slow_start, *steady], teacher_seconds=0.4, num_teachers=2, num_steps=100
    )

    assert (costs.own, costs.teacher, costs.step_tokens) == (3.0, 0.4, 4096)
    assert costs.pauses == Pauses()


def test_too_few_records_are_refused() -> None:
    with pytest.raises(InputError, match="the first 3 are left out"):
        measured_costs(SPEC, [], teacher_seconds=0.4, num_teachers=2, num_steps=100)


@pytest.mark.parametrize(("key", "value"), [("num_teachers", 0), ("credits", 0), ("own", 0.0)])
def test_impossible_costs_are_refused(key: str, value: float) -> None:
    numbers = {
        "num_students": 1,
        "num_teachers": 1,
        "num_steps": 1,
        "step_tokens": 1,
        "num_micro_batches": 1,
        "own": 1.0,
        "teacher": 1.0,
    }

    with pytest.raises(InputError, match=key):
        RunCosts(**numbers | {key: value})
