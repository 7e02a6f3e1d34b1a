"""What each kind of signal costs, and where it is the cheapest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt

from tools.plan_validation.finding import Cell, Table
from tools.scaling.roles import NUM_STUDENTS, PAIRS
from tools.scaling.section import Section
from tools.scaling.setting import Setting

BILLION = 1e9
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Kind:
    """A kind of signal, and whether it is read from disk."""

    name: str
    signal: str
    is_exact: str
    is_kept: bool = False


KINDS = (
    Kind("top-64", "topk", "nearly: 65 outcomes"),
    Kind("sampled (100 draws)", "sampled", "unbiased"),
    Kind("exact", "exact", "yes"),
    Kind("hidden (no KL)", "hidden", "no KL"),
    Kind("kept top-64", "topk", "nearly: 65 outcomes", is_kept=True),
)
LINKS = (("100 MB/s", 1e8), ("10 MB/s", 1e7), ("1 MB/s", 1e6))
NARROW = 1e6
EPOCHS = (1, 2, 4)


def signals() -> Section:
    """Return what each kind of signal costs, and where it is the cheapest."""
    rows: list[list[Cell]] = []
    winners: list[list[Cell]] = []
    for student, teacher in PAIRS:
        cluster = "h200" if teacher == "Llama-405B" else "h100-80"
        pair = f"{student} from {teacher} ({cluster})"
        for kind in KINDS:
            rows.append(_cost_row(pair, kind, signal_setting(student, teacher, cluster, kind)))
        winners.append([pair, *_winners(student, teacher, cluster)])
    columns = ["run", "signal", "exact KL", "bytes per token", "tokens/s per student GPU"]
    columns += ["GPUs per teacher", "teacher GPUs per student GPU"]
    columns += [f"GPU-hours, {epochs} epochs" for epochs in EPOCHS]
    columns += [f"rate with {name}" for name, _ in LINKS]
    costs = Table(
        "Signals",
        "GPU-hours of students and teachers per billion tokens of text that is read so many times."
        " Rate with a link: share of the students' rate that a student's link of that speed allows"
        " (kept: of its disk).",
        columns,
        rows,
    )
    best = Table(
        "Where each signal wins",
        "Cheapest: all signals with a KL whose GPU-hours are within 1 % of the fewest. Narrow link:"
        " the highest rate over 1 MB/s per student. Last column: bytes per second of each student"
        " that `exact` needs.",
        [
            "run",
            "cheapest, 1 epoch",
            "cheapest, 4 epochs",
            "fastest over a narrow link",
            "link for exact",
        ],
        winners,
    )
    return Section(
        name="signals",
        title="Where each signal wins",
        setting=(
            f"{NUM_STUDENTS} student GPUs, no sense term (but `hidden`, which has nothing else and"
            " sends states at the sense positions). A kept signal is made once by the teachers"
            " and read from disk in every epoch."
        ),
        findings=_findings(),
        tables=[best, costs],
        draw=_draw_signals,
    )


def _cost_row(pair: str, kind: Kind, setting: Setting) -> list[Cell]:
    """Return the row of a signal in the table of costs."""
    hours = [gpu_hours(setting, epochs) for epochs in EPOCHS]
    return [
        pair,
        kind.name,
        kind.is_exact,
        f"{setting.bytes_per_token:,.0f}",
        f"{setting.own().tokens_per_second / NUM_STUDENTS:,.0f}",
        setting.ranks_per_teacher() or "-",
        f"{setting.teacher_gpus() / NUM_STUDENTS:.2f}",
        *[f"{value:,.0f}" for value in hours],
        *[_link_share(setting, speed) for _, speed in LINKS],
    ]


def _findings() -> list[str]:
    """Return what the tables say, with figures of an 8B student and a 70B teacher."""
    gpus = {
        kind.signal: signal_setting("Llama-8B", "Llama-70B", "h100-80", kind).ranks_per_teacher()
        for kind in KINDS
    }
    return [
        "The GPU-time of `topk`, `sampled` and `exact` is nearly the same. `exact` moves the"
        " teacher's head to the student and costs links: 2 D bytes per token.",
        f"`exact` with a 70B teacher needs {gpus['exact']} GPUs per teacher, `topk` {gpus['topk']}:"
        " the replies that 64 students may have in flight do not fit beside the weights. A smaller"
        " [link] credit_bytes avoids it.",
        "`sampled` sends the fewest bytes: it is the fastest over narrow links.",
        "A kept signal is the cheapest from the second epoch on, and for every further run on the"
        " same text. It takes as many bytes per token on disk:"
        f" {_kept_terabytes():.2f} TB per billion tokens for top-64.",
    ]


def signal_setting(student: str, teacher: str, cluster: str, kind: Kind) -> Setting:
    """Return a pair's run with one kind of signal."""
    return Setting(
        student,
        teacher,
        cluster,
        NUM_STUDENTS,
        signal=kind.signal,
        senses=kind.signal == "hidden",
        retrieve_on="student",
        is_kept=kind.is_kept,
    )


def gpu_hours(setting: Setting, epochs: int) -> float:
    """Return GPU-hours per billion tokens of text that is read several times."""
    live = replace(setting, is_kept=False)
    student = BILLION * epochs * NUM_STUDENTS / setting.own().tokens_per_second
    teacher_per_student = live.teacher_gpus() / NUM_STUDENTS
    reads = 1 if setting.is_kept else epochs
    return student * (1 + teacher_per_student * reads / epochs) / SECONDS_PER_HOUR


def _link_share(setting: Setting, speed: float) -> str:
    return f"{min(1.0, _link_rate(setting, speed)):.0%}"


def _link_rate(setting: Setting, speed: float) -> float:
    """Return the tokens that a link carries over those that a student trains."""
    per_student = setting.own().tokens_per_second / NUM_STUDENTS
    return speed / setting.bytes_per_token / per_student


def _winners(student: str, teacher: str, cluster: str) -> list[Cell]:
    settings = {
        kind.name: signal_setting(student, teacher, cluster, kind)
        for kind in KINDS
        if kind.signal != "hidden"
    }
    exact = settings["exact"]
    needed = exact.bytes_per_token * exact.own().tokens_per_second / NUM_STUDENTS
    narrow = max(settings, key=lambda name: _narrow_rate(settings[name]))
    return [_cheapest(settings, 1), _cheapest(settings, 4), narrow, f"{needed / 1e6:,.0f} MB/s"]


def _cheapest(settings: dict[str, Setting], epochs: int) -> str:
    """Name the settings whose GPU-hours are within 1 % of the fewest."""
    hours = {name: gpu_hours(setting, epochs) for name, setting in settings.items()}
    fewest = min(hours.values())
    return ", ".join(name for name, value in hours.items() if value <= 1.01 * fewest)


def _narrow_rate(setting: Setting) -> float:
    """Return a student's tokens per second over a narrow link; a kept signal comes from a disk."""
    own = setting.own().tokens_per_second / NUM_STUDENTS
    return 0.0 if setting.is_kept else min(own, NARROW / setting.bytes_per_token)


def _kept_terabytes() -> float:
    setting = signal_setting("Llama-8B", "Llama-70B", "h100-80", KINDS[0])
    return BILLION * setting.bytes_per_token / 1e12


def _draw_signals(path: Path) -> None:
    figure, grid = plt.subplots(1, len(PAIRS), figsize=(13, 4), layout="constrained")
    for axes, (student, teacher) in zip(grid, PAIRS, strict=True):
        cluster = "h200" if teacher == "Llama-405B" else "h100-80"
        settings = [signal_setting(student, teacher, cluster, kind) for kind in KINDS]
        for offset, epochs in enumerate(EPOCHS):
            places = [index + 0.27 * (offset - 1) for index in range(len(KINDS))]
            hours = [gpu_hours(setting, epochs) / epochs for setting in settings]
            axes.barh(places, hours, height=0.25, label=f"epochs: {epochs}")
        axes.set_yticks(range(len(KINDS)), [kind.name for kind in KINDS])
        axes.invert_yaxis()
        axes.set_title(f"{student} from {teacher}", fontsize=10)
        axes.set_xlabel("GPU-hours per billion tokens read")
    for axes in grid[1:]:
        axes.set_yticklabels([])
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
