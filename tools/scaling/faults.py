"""Time lost to failures, saves and uneven machines, as the simulator finds it."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

from dskd_ds.costs.constants import DEFAULT
from dskd_ds.costs.simulate.launches import SimulatedLaunches, simulate_launches
from dskd_ds.costs.simulate.run_costs import Pauses, RunCosts
from dskd_ds.costs.simulate.steps import simulate_steps
from dskd_ds.costs.time import save_seconds
from tools.plan_validation.finding import Cell, Table
from tools.scaling.section import Section
from tools.scaling.setting import PREFETCH_DEPTH, Setting

GPUS = (64, 256, 1024)
GPU_HOURS = (10_000.0, DEFAULT.gpu_hours_per_failure, 100_000.0)
HOURS = 24 * 7
"""Length of the simulated runs without any loss."""
SEEDS = range(3)
DEFAULT_MINUTES = 15.0


def failures() -> Section:
    """Return the time lost to failures, by GPUs and mean time between failures."""
    rows: list[list[Cell]] = []
    for gpus in GPUS:
        for gpu_hours in GPU_HOURS:
            best = best_minutes(gpus, gpu_hours, is_asynchronous=False)
            rows.append(
                [
                    f"{gpus:,}",
                    f"{gpu_hours:,.0f}",
                    f"{gpu_hours / gpus:,.0f} h",
                    f"{lost(gpus, gpu_hours, DEFAULT_MINUTES, False):.1%}",
                    f"{best:.0f} min",
                    f"{lost(gpus, gpu_hours, best, False):.1%}",
                    f"{lost(gpus, gpu_hours, DEFAULT_MINUTES, True):.1%}",
                ]
            )
    blocks = _saving(1024, is_asynchronous=False)[0]
    copy = _saving(1024, is_asynchronous=True)[0]
    table = Table(
        "Share of the time that is lost",
        "Saves, repeated steps and restarts of a run of one week; means of"
        f" {len(SEEDS)} simulated runs. Best interval: Daly's estimate.",
        [
            "student GPUs",
            "GPU-hours per failure",
            "between failures",
            "every 15 minutes",
            "best interval",
            "with it",
            "asynchronous, 15 minutes",
        ],
        rows,
    )
    return Section(
        name="failures",
        title="Time lost to failures",
        setting=(
            "A 70B student on H100 (70B teacher). A failure of any student GPU ends the launch:"
            f" {DEFAULT.restart_seconds:.0f} s later it goes on from the newest checkpoint (an"
            " assumption). 50,700 GPU-hours per failure is what Llama 3 saw; the other two are a"
            " bad and a good cluster. Failures are exponential. A teacher's failure costs only its"
            " share of replies until it is back, and is left out here."
        ),
        findings=[
            f"A synchronous save of the 70B student stops the training for {blocks:.0f} s on 128"
            f" nodes (7 GB/s to the file system, an assumption); an asynchronous one for"
            f" {copy:.2f} s.",
            "With asynchronous saves the loss is mostly restarts and repeated steps. With"
            " synchronous ones the default interval of 15 minutes costs more than the failures.",
            "Set `[checkpoint] asynchronous`, or raise `every_minutes` to the best interval.",
        ],
        tables=[table],
        draw=_draw_failures,
    )


def _setting(gpus: int) -> Setting:
    return Setting("Llama-70B", "Llama-70B", "h100-80", gpus, senses=False)


def _saving(gpus: int, *, is_asynchronous: bool) -> tuple[float, float]:
    setting = _setting(gpus)
    return save_seconds(setting.work(), setting.gpus, asynchronous=is_asynchronous)


def _launches(
    gpus: int, gpu_hours: float, minutes: float, is_asynchronous: bool, seed: int
) -> SimulatedLaunches:
    """Simulate one run of a week."""
    setting = _setting(gpus)
    own = setting.own().own
    blocks, written = _saving(gpus, is_asynchronous=is_asynchronous)
    costs = RunCosts(
        num_students=gpus,
        num_teachers=1,
        num_steps=math.ceil(HOURS * 3600 / own),
        step_tokens=setting.work().step_tokens,
        num_micro_batches=setting.num_micro_batches,
        own=own,
        teacher=setting.asked().forward,
        pauses=Pauses(
            save_every_seconds=60 * minutes,
            save_blocks=blocks,
            save_written=written,
            failure_interval=3600 * gpu_hours / gpus,
            restart=DEFAULT.restart_seconds,
        ),
    )
    return simulate_launches(costs, lambda _: own, seed)


def lost(gpus: int, gpu_hours: float, minutes: float, is_asynchronous: bool) -> float:
    """Return the mean share of the time that is not spent in steps that are kept."""
    runs = [_launches(gpus, gpu_hours, minutes, is_asynchronous, seed) for seed in SEEDS]
    return statistics.fmean(1 - run.trained / run.seconds for run in runs)


def best_minutes(gpus: int, gpu_hours: float, *, is_asynchronous: bool) -> float:
    """Return Daly's estimate of the best time between saves (2006, equation 37)."""
    blocks, _ = _saving(gpus, is_asynchronous=is_asynchronous)
    mean = 3600 * gpu_hours / gpus
    ratio = math.sqrt(blocks / (2 * mean))
    seconds = math.sqrt(2 * blocks * mean) * (1 + ratio / 3 + ratio**2 / 9) - blocks
    return seconds / 60


def _draw_failures(path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    minutes = [5.0, 15.0, 30.0, 60.0, 120.0, 240.0]
    for gpus in GPUS:
        shares = [100 * lost(gpus, DEFAULT.gpu_hours_per_failure, each, False) for each in minutes]
        (line,) = axes.plot(minutes, shares, marker="o", label=f"{gpus:,} GPUs")
        shares = [100 * lost(gpus, DEFAULT.gpu_hours_per_failure, each, True) for each in minutes]
        axes.plot(minutes, shares, linestyle=":", marker=".", color=line.get_color())
    axes.set_xscale("log")
    axes.set_xticks(minutes, [f"{each:.0f}" for each in minutes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes between saves (dotted: asynchronous)")
    axes.set_ylabel("% of the time lost")
    axes.set_title("70B student, 50,700 GPU-hours per failure", fontsize=10)
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


NUM_STEPS = 48
SCALES = (8, 32, 128, 256)
DEPTHS = (1, 2, 4)
MORE = (1.0, 1.1, 1.25, 1.5)
"""Teachers as multiples of those that are needed if none ever waits."""
JITTER = 0.05
UNEVEN_STUDENTS = 32


def unevenness() -> Section:
    """Return what requests that meet by chance cost, and uneven students and teachers."""
    return Section(
        name="unevenness",
        title="Teachers beyond the ratio, and uneven machines",
        setting=(
            "An 8B student with 70B teachers of 2 H100 each, without senses; every request of"
            f" {NUM_STEPS} steps of 4 micro-batches is followed by the simulator. A student gives"
            " each request to the teacher that should answer first by its earlier answers, as the"
            " real link does. It does not know how many requests of others wait there now."
        ),
        findings=[
            "The ratio of the first sections is a lower limit. Students choose teachers without"
            " knowing of each other, so some teachers are idle while others have a queue, the more"
            " so the more teachers there are. Plan more teachers than the ratio says, or a [link]"
            " prefetch_depth of 4.",
            "A slow student slows every step: all students wait for it in collectives.",
            "Slow teachers get fewer requests, once a student has asked each of them. If there are"
            " many more teachers than a student's requests in flight, that takes longer than the"
            " few steps that are simulated here.",
        ],
        tables=[_by_scale(), _uneven()],
        notes=[
            "Each student has (depth + 1) x 4 requests in flight, and the second half of"
            f" {NUM_STEPS} steps is measured."
        ],
    )


def _costs(num_students: int, more: float = 1.0) -> RunCosts:
    """Return the costs of a run with so many students, and teachers as a multiple of the needed."""
    setting = Setting("Llama-8B", "Llama-70B", "h100-80", num_students, senses=False)
    own = setting.own()
    asked = setting.asked()
    needed = setting.teacher_gpus() / (setting.ranks_per_teacher() or 1)
    return RunCosts(
        num_students=num_students,
        num_teachers=math.ceil(more * needed),
        num_steps=NUM_STEPS,
        step_tokens=own.step_tokens,
        num_micro_batches=setting.num_micro_batches,
        own=own.own,
        teacher=asked.forward,
        transfer=asked.transfer,
        prefetch_depth=PREFETCH_DEPTH,
    )


def _longer(costs: RunCosts) -> str:
    """Return by how much steps are longer than without any wait."""
    return f"{simulate_steps(costs).steady() / costs.own - 1:+.1%}"


def _by_scale() -> Table:
    rows: list[list[Cell]] = []
    for num_students in SCALES:
        row: list[Cell] = [num_students, _costs(num_students).num_teachers]
        row += [_longer(_costs(num_students, more)) for more in MORE]
        row.append(_longer(replace(_costs(num_students), prefetch_depth=4)))
        rows.append(row)
    columns = ["student GPUs", "teachers needed", *[f"{more:g} times as many" for more in MORE]]
    return Table(
        "Longer steps by number of teachers",
        "Seconds per step against a step without any wait, with [link] prefetch_depth = 2; last"
        " column: as many as needed, and prefetch_depth = 4.",
        [*columns, "depth 4"],
        rows,
    )


def _uneven() -> Table:
    spare = _costs(UNEVEN_STUDENTS, 1.25)
    slow_tenth = dict.fromkeys(range(0, spare.num_teachers, 10), 3.0)
    cases = {
        "all equal": spare,
        "times spread by 5 %": replace(spare, jitter=JITTER),
        "one student 1.5 times slower": replace(spare, slow_students={0: 1.5}),
        "one teacher 3 times slower": replace(spare, slow_teachers={0: 3.0}),
        "every tenth teacher 3 times slower": replace(spare, slow_teachers=slow_tenth),
    }
    rows: list[list[Cell]] = []
    for name, costs in cases.items():
        by_depth = [_longer(replace(costs, prefetch_depth=depth)) for depth in DEPTHS]
        rows.append([name, *by_depth])
    return Table(
        "Longer steps by unevenness",
        f"{UNEVEN_STUDENTS} students and 1.25 times the needed teachers ({spare.num_teachers}), for"
        " three values of [link] prefetch_depth.",
        ["case", *[f"depth {depth}" for depth in DEPTHS]],
        rows,
    )
