"""Writes a run's status as text: one screen."""

from __future__ import annotations

import itertools
import textwrap
from collections import defaultdict
from collections.abc import Sequence

from dskd_ds.observe.status import NodeStatus, Status, StudentStatus, TeacherStatus

WIDTH = 98
LABEL_WIDTH = 12
BAR_WIDTH = 20
MAX_NODES = 10
MAX_ERRORS = 2
MAX_LINES = 6
"""How many lines of an error's message are shown; `--json` has all of it."""
GIB = 1 << 30


def status_text(status: Status) -> str:
    """Return the status as lines of text, for people."""
    name = f"{status.name}, " if status.name else ""
    lines = [
        *_entry("run", f"{name}{status.run_dir}"),
        *_entry("state", status.headline),
        *_attempts(status),
        *_progress(status),
        *_speed(status),
        *_memory(status),
        *_checkpoint(status),
        *_nodes(status.nodes),
    ]
    for problem in status.problems:
        lines += _entry("problem", problem)
    if status.died_of and status.state != "saved":
        lines += _entry("died of", status.died_of)
    elif status.errors:
        lines += _errors(status)
    lines += _entry("what to do", status.what_to_do)
    if status.command:
        # Not wrapped, so that it can be copied.
        lines.append(f"{'':{LABEL_WIDTH}} {status.command}")
    return "\n".join(lines)


def _entry(label: str, text: str) -> list[str]:
    """Return the lines of a labelled text; later lines are indented."""
    indent = " " * (LABEL_WIDTH + 1)
    wrapped: list[str] = []
    for line in text.splitlines()[:MAX_LINES]:
        wrapped += textwrap.wrap(line, WIDTH - len(indent), break_long_words=False) or [""]
    first, *others = wrapped or [""]
    return [f"{label:{LABEL_WIDTH}} {first}".rstrip(), *(indent + line for line in others)]


def _attempts(status: Status) -> list[str]:
    """Return the number of the attempt, and how the earlier ones of a job ended."""
    if status.attempt is None:
        return []
    job = f", SLURM job {status.job_id}" if status.job_id else ""
    ended = [f"{attempt.number} {attempt.reason}" for attempt in status.attempts if attempt.reason]
    earlier = f"; ended: {', '.join(ended[-6:])}" if ended else ""
    return _entry("attempt", f"{status.attempt}{job}{earlier}")


def _progress(status: Status) -> list[str]:
    if not status.step:
        total = f" of {status.num_steps:,}" if status.num_steps else ""
        return _entry("progress", f"step 0{total}")
    text = f"step {status.step:,}"
    bar = ""
    if status.num_steps:
        share = min(status.step / status.num_steps, 1.0)
        filled = int(share * BAR_WIDTH)
        bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] "
        text += f" of {status.num_steps:,} ({share:.0%})"
    text += f", {status.tokens:,} tokens"
    if status.last_step_age_seconds is not None:
        text += f", last step {duration(status.last_step_age_seconds)} ago"
    return _entry("progress", bar + text)


def _speed(status: Status) -> list[str]:
    speed = status.speed
    if speed is None:
        return []
    text = f"{speed.step_seconds:.3g} s per step, {speed.tokens_per_second:,.0f} tokens/s"
    if status.eta_seconds is not None:
        text += f", about {duration(status.eta_seconds)} left"
    lines = _entry("speed", text)
    waits = f"students wait for the teacher {speed.teacher_wait_share:.0%} of a step"
    waits += f", for senses {speed.sense_wait_share:.0%}"
    teachers = [teacher for node in status.nodes for teacher in node.teachers]
    idle = [teacher.idle_share for teacher in teachers if teacher.phase == "serving"]
    if idle:
        waits += f"\nteachers wait for requests {sum(idle) / len(idle):.0%} of the time"
    lines += _entry("waits", waits)
    if speed.slowest_rank is not None and speed.slowest_factor is not None:
        others = f"{speed.slowest_factor:.2f} times the computation time of the others"
        lines += _entry("slowest", f"student {speed.slowest_rank}: {others}")
    return lines


def _memory(status: Status) -> list[str]:
    parts = []
    if status.memory.host_bytes:
        parts.append(f"{status.memory.host_bytes / GIB:.2f} GiB of RAM")
    if status.memory.device_bytes:
        parts.append(f"{status.memory.device_bytes / GIB:.2f} GiB of the GPU")
    lines = _entry("memory", f"at most {', '.join(parts)} per student") if parts else []
    skipped = {key: count for key, count in status.skipped_steps.items() if count}
    if skipped:
        counts = ", ".join(f"{key.replace('_', ' ')}: {count}" for key, count in skipped.items())
        lines += _entry("skipped", f"steps that changed nothing: {counts}")
    return lines


def _checkpoint(status: Status) -> list[str]:
    saved = status.checkpoint
    if saved is None:
        return _entry("last save", "none yet") if status.step else []
    text = f"step {saved.step:,}, {duration(saved.age_seconds)} ago"
    if saved.save_seconds:
        text += f"; training stood still for {saved.save_seconds:.1f} s"
    lines = _entry("last save", text)
    if status.best:
        loss = f"{status.best.heldout_loss:.4f} nats on held-out text"
        export = "dskd export SPEC --tag best"
        lines += _entry("best save", f"step {status.best.step:,}, {loss} ({export})")
    return lines


def _nodes(nodes: Sequence[NodeStatus]) -> list[str]:
    lines: list[str] = []
    for node in nodes[:MAX_NODES]:
        parts = [*_students(node.students), *(_teacher(teacher) for teacher in node.teachers)]
        lines += _entry(node.host, "\n".join(parts))
    if len(nodes) > MAX_NODES:
        lines += _entry("", f"and {len(nodes) - MAX_NODES} more nodes (--json has all)")
    return lines


def _students(students: Sequence[StudentStatus]) -> list[str]:
    """Return a line for all students of a node that do the same."""
    by_state: dict[str, list[StudentStatus]] = defaultdict(list)
    for student in students:
        silent = ", SILENT" if student.is_silent else ""
        by_state[f"{student.phase}, step {student.step:,}{silent}"].append(student)
    lines = []
    for state, group in by_state.items():
        noun = "student" if len(group) == 1 else "students"
        longest = max(student.phase_seconds for student in group)
        ranks = ranges([student.rank for student in group])
        lines.append(f"{noun} {ranks}: {state}, for {duration(longest)}")
    return lines


def ranges(numbers: Sequence[int]) -> str:
    """Return numbers as text such as "0-3, 8"."""
    found = []
    # In a run of neighbouring numbers, number minus position is the same.
    by_offset = itertools.groupby(enumerate(sorted(numbers)), key=_offset)
    for _, run in by_offset:
        members = [number for _, number in run]
        first, last = members[0], members[-1]
        found.append(str(first) if first == last else f"{first}-{last}")
    return ", ".join(found)


def _offset(pair: tuple[int, int]) -> int:
    index, number = pair
    return number - index


def _teacher(teacher: TeacherStatus) -> str:
    silent = ", SILENT" if teacher.is_silent else ""
    ranks = f" ({teacher.num_ranks} ranks)" if teacher.num_ranks > 1 else ""
    name = f" ({teacher.name})" if teacher.name else ""
    return (
        f"teacher {teacher.replica}{name}{ranks}: {teacher.phase}{silent},"
        f" {teacher.num_done:,} requests done, {teacher.queue_length} queued,"
        f" busy {teacher.busy_share:.0%}, waits {teacher.idle_share:.0%}"
    )


def _errors(status: Status) -> list[str]:
    lines: list[str] = []
    for error in status.errors[:MAX_ERRORS]:
        process = "launch" if error.role == "launch" else f"{error.role} {error.rank}"
        age = duration(error.age_seconds)
        lines += _entry(
            "last error",
            f"{age} ago, {process} on {error.host} (exit code {error.exit_code}): {error.message}",
        )
    return lines


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as "3 h 5 min"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
