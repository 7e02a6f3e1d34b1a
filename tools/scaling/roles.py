"""Teachers per student, the cost of the sense term, and where each kind of signal is cheapest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt

from dskd_ds.costs.constants import DEFAULT
from tools.plan_validation.finding import Cell, Table
from tools.scaling.section import Section
from tools.scaling.setting import Setting

STUDENTS = ("Llama-1B", "Llama-3B", "Llama-8B", "Llama-70B")
TEACHERS = ("Llama-8B", "Llama-70B", "Llama-405B")
CLUSTERS = ("a100-80", "h100-80", "h200")
NUM_STUDENTS = 64
PAIRS = (
    ("Llama-1B", "Llama-8B"),
    ("Llama-8B", "Llama-8B"),
    ("Llama-8B", "Llama-70B"),
    ("Llama-70B", "Llama-405B"),
)
BILLION = 1e9
SECONDS_PER_HOUR = 3600


def teachers() -> Section:
    """Return the teacher GPUs per student GPU with which neither side waits."""
    rows: list[list[Cell]] = []
    for cluster in CLUSTERS:
        for teacher in TEACHERS:
            settings = [
                Setting(student, teacher, cluster, NUM_STUDENTS, senses=False)
                for student in STUDENTS
            ]
            ranks = settings[0].ranks_per_teacher()
            row: list[Cell] = [cluster, teacher, "no node holds it" if ranks is None else ranks]
            for setting in settings:
                ratio = setting.teacher_gpus() / NUM_STUDENTS
                row.append("-" if ranks is None else f"{ratio:.2f}")
            rows.append(row)
    small, large = (
        Setting("Llama-8B", teacher, "h100-80", NUM_STUDENTS, senses=False)
        for teacher in ("Llama-8B", "Llama-70B")
    )
    table = Table(
        "Teacher GPUs per student GPU",
        "With so many, neither students nor teachers wait. GPUs per teacher: the fewest of one"
        " node that hold its bfloat16 weights.",
        ["GPUs", "teacher", "GPUs per teacher", *[f"student {name}" for name in STUDENTS]],
        rows,
    )
    return Section(
        name="teachers",
        title="Teachers per student",
        setting=(
            f"{NUM_STUDENTS} student GPUs; students and teachers on the same kind of GPU; top-64"
            " signal at every position, without the sense term; full activation checkpointing for"
            " the student, no torch.compile. The ratio hardly depends on the number of GPUs."
        ),
        findings=[
            "An 8B student needs"
            f" {small.teacher_gpus() / NUM_STUDENTS:.2f} teacher GPUs per student GPU with an 8B"
            f" teacher and {large.teacher_gpus() / NUM_STUDENTS:.2f} with a 70B teacher (H100).",
            "A teacher's forward pass costs 2 FLOPs per weight and token, a student's step 8 with"
            " recomputation. So equal sizes need about a quarter, and the ratio grows with the"
            " teacher's size over the student's.",
            "A 405B teacher in bfloat16 fits one node of H200 only. This project keeps the ranks of"
            " a teacher on one node.",
        ],
        tables=[table],
    )


def senses() -> Section:
    """Return what the sense term costs."""
    rows: list[list[Cell]] = []
    for student, teacher in PAIRS:
        cluster = "h200" if teacher == "Llama-405B" else "h100-80"
        without = Setting(student, teacher, cluster, NUM_STUDENTS, senses=False)
        for name, setting in _sense_settings(without).items():
            own, base = setting.own(), without.own()
            extra = own.total / base.total - 1
            gpus = setting.teacher_gpus() / NUM_STUDENTS
            slower = 1 - setting.tokens_per_gpu_second() / without.tokens_per_gpu_second()
            rows.append(
                [
                    f"{student} from {teacher} ({cluster})",
                    name,
                    f"{setting.bytes_per_token:,.0f}",
                    f"{extra:+.1%}",
                    f"{gpus:.2f}",
                    f"{slower:+.1%}",
                ]
            )
    one_core = _one_core()
    table = Table(
        "Cost of the sense term",
        "Step: seconds of a student's step against the run without senses. GPU-time: more GPU-time"
        " per token, of students and as many teachers as they need.",
        [
            "run",
            "senses chosen",
            "bytes per token",
            "step",
            "teacher GPUs per student GPU",
            "GPU-time",
        ],
        rows,
    )
    return Section(
        name="senses",
        title="Cost of the sense term",
        setting=(
            "Defaults of [senses]: hybrid candidates, sense positions at 48 % of the tokens (an"
            " assumed 60 % of the targets have relations). [topology] threads_per_rank = 0: half of"
            " a node's cores choose senses."
        ),
        findings=[
            "The term itself, a squared distance to a few vectors, adds at most 0.1 % to a step.",
            'Sent hidden states multiply the bytes on the wire; with `retrieve_on = "teacher"`'
            " only the senses' numbers travel.",
            "Choosing needs cores. A teacher on H100 answers a row of 4,096 tokens in"
            f" {one_core[0] * 1000:.0f} ms without senses; choosing them takes"
            f" {one_core[1] * 1000:.0f} ms with its share of the node's cores, and"
            f" {one_core[2] * 1000:.0f} ms on one core, which is the default of"
            " [topology] threads_per_rank (8B teacher).",
            "So small teachers wait for their CPUs. The time of an index query is an assumption;"
            " the section on sensitivity shows its range.",
        ],
        tables=[table],
    )


def _sense_settings(without: Setting) -> dict[str, Setting]:
    return {
        "no sense term": without,
        "by the student": replace(without, senses=True, retrieve_on="student"),
        "by the teacher": replace(without, senses=True, retrieve_on="teacher"),
    }


def _one_core() -> tuple[float, float, float]:
    """Return an 8B teacher's seconds per row: forward, choosing on its cores, and on one core."""
    setting = Setting("Llama-1B", "Llama-8B", "h100-80", NUM_STUDENTS)
    forward = replace(setting, senses=False).asked().forward
    positions = setting.teacher_work().request_tokens * setting.sense_share
    width = setting.shapes.teacher.hidden_size
    exact = DEFAULT.sense_rows * 2 * width / DEFAULT.core_bandwidth
    one = positions * (DEFAULT.sense_query_seconds + exact)
    cores = setting.gpus.cpu_cores_per_node / setting.gpus.gpus_per_node * DEFAULT.sense_core_share
    return forward, one / cores, one


@dataclass(frozen=True)
class _Kind:
    name: str
    signal: str
    is_exact: str
    is_kept: bool = False


KINDS = (
    _Kind("top-64", "topk", "nearly: 65 outcomes"),
    _Kind("sampled, 100 draws", "sampled", "unbiased"),
    _Kind("exact", "exact", "yes"),
    _Kind("hidden, no KL", "hidden", "no KL"),
    _Kind("kept top-64", "topk", "nearly: 65 outcomes", is_kept=True),
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
            setting = _signal_setting(student, teacher, cluster, kind)
            hours = [gpu_hours(setting, epochs) for epochs in EPOCHS]
            rows.append(
                [
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
            )
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
        findings=[
            "The GPU-time of `topk`, `sampled` and `exact` is nearly the same. `exact` moves the"
            " teacher's head to the student and costs links: 2 D bytes per token.",
            "`exact` with a 70B teacher needs 4 GPUs per teacher instead of 2: the replies that 64"
            " students may have in flight do not fit beside the weights. A smaller [link]"
            " credit_bytes avoids it.",
            "`sampled` sends the fewest bytes: it is the fastest over narrow links.",
            "A kept signal is the cheapest from the second epoch on, and for every further run on"
            " the same text. It takes as many bytes per token on disk:"
            f" {_kept_terabytes():.2f} TB per billion tokens for top-64.",
        ],
        tables=[best, costs],
        draw=_draw_signals,
    )


def _signal_setting(student: str, teacher: str, cluster: str, kind: _Kind) -> Setting:
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
        kind.name: _signal_setting(student, teacher, cluster, kind)
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
    setting = _signal_setting("Llama-8B", "Llama-70B", "h100-80", KINDS[0])
    return BILLION * setting.bytes_per_token / 1e12


def _draw_signals(path: Path) -> None:
    figure, grid = plt.subplots(1, len(PAIRS), figsize=(13, 4), layout="constrained")
    for axes, (student, teacher) in zip(grid, PAIRS, strict=True):
        cluster = "h200" if teacher == "Llama-405B" else "h100-80"
        settings = [_signal_setting(student, teacher, cluster, kind) for kind in KINDS]
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
    grid[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
