"""Teachers per student, and the cost of the sense term."""

from __future__ import annotations

from dataclasses import replace

from dskd_ds.costs.constants import DEFAULT
from dskd_ds.costs.memory import ASSUMED_RELATED_FRACTION
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
    rows, largest = _sense_rows()
    one_core = _one_core()
    share = Setting(*PAIRS[0], "h100-80", NUM_STUDENTS).sense_share
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
            f"Defaults of [senses]: hybrid candidates, sense positions at {share:.0%} of the tokens"
            f" (an assumed {ASSUMED_RELATED_FRACTION:.0%} of the targets have relations)."
            " [topology] threads_per_rank = 0: half of a node's cores choose senses."
        ),
        findings=[
            "The term itself, a squared distance to a few vectors, adds at most"
            f" {largest:.1%} to a step.",
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


def _sense_rows() -> tuple[list[list[Cell]], float]:
    """Return the rows of the table of costs, and the largest share that a step grows by."""
    rows: list[list[Cell]] = []
    largest = 0.0
    for student, teacher in PAIRS:
        cluster = "h200" if teacher == "Llama-405B" else "h100-80"
        without = Setting(student, teacher, cluster, NUM_STUDENTS, senses=False)
        for name, setting in _sense_settings(without).items():
            own, base = setting.own(), without.own()
            extra = own.total / base.total - 1
            largest = max(largest, extra)
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
    return rows, largest


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
