"""Reads what a run directory says about its run, for `status.py`, which draws the conclusions.

Only files are read, and none is created. Whatever is missing, half written or of another version is
left out.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.observe.attempts import Attempt, read_attempts
from dskd_ds.observe.best_checkpoint import BestCheckpoint, best_checkpoint
from dskd_ds.observe.metrics import METRICS_FILE
from dskd_ds.observe.run_files import (
    ENDS_FOLDER,
    PROGRESS_FOLDER,
    REPAIR_FOLDER,
    REPAIRED_FOLDER,
    RUN_START_FILE,
    STACKS_SUFFIX,
    SUBMISSION_FILE,
    End,
    Kind,
    RankProgress,
    RunStart,
    Submission,
    TeacherHealth,
    read_record,
    read_records,
)
from dskd_ds.observe.saved import newest_repair_step
from dskd_ds.spec import SPEC_FILE

TAIL_BYTES = 1 << 18
"""How much of the end of metrics.jsonl is read: some hundred records."""

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Lease:
    """The run lock that student rank 0 holds while it trains."""

    owner: str
    """Process, host, job and start of the owner, for messages."""
    is_alive: bool


@dataclass(frozen=True)
class Seen(Generic[Kind]):
    """A record, and when it was written."""

    record: Kind
    written: float
    """Modification time of its file, in Unix seconds."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    step: int
    saved: float
    """When its manifest was written, in Unix seconds."""


@dataclass(frozen=True)
class Evidence:
    """Everything that the files of a run directory say."""

    run_dir: str
    now: float
    """When it was read, in Unix seconds."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The run's spec as a tree; empty if it cannot be read."""
    lease: Lease | None = None
    start: RunStart | None = None
    students: tuple[Seen[RankProgress], ...] = ()
    teachers: tuple[Seen[TeacherHealth], ...] = ()
    ends: tuple[End, ...] = ()
    submission: Submission | None = None
    attempts: tuple[Attempt, ...] = ()
    """Of a job script, by number."""
    metrics: tuple[Metrics, ...] = ()
    """The last records of metrics.jsonl, by ascending step."""
    metrics_written: float | None = None
    """When metrics.jsonl was last written, in Unix seconds."""
    repair_step: int | None = None
    """Steps done of a repair that is not finished; None without one."""
    saved_repair_step: int | None = 0
    """Step of the repair's newest checkpoint; 0 if there is none. None: the repair is done."""
    checkpoint: Checkpoint | None = None
    """The newest one."""
    best: BestCheckpoint | None = None
    """The one with the lowest loss on held-out text."""
    stacks: Mapping[str, float] = field(default_factory=dict)
    """Files with the stacks of ranks that hung, and when each was written."""
    has_student: bool = False
    """Whether the trained student was exported."""


def read_evidence(run_dir: Path, lease: Lease | None, now: float) -> Evidence:
    """Read a run directory, which may be missing. now: in Unix seconds."""
    metrics_file = run_dir / METRICS_FILE
    return Evidence(
        run_dir=str(run_dir),
        now=now,
        spec=read_spec_tree(run_dir / SPEC_FILE),
        lease=lease,
        start=read_record(run_dir / RUN_START_FILE, RunStart),
        students=_seen(run_dir, f"{PROGRESS_FOLDER}/student-*.json", RankProgress),
        teachers=_seen(run_dir, f"{PROGRESS_FOLDER}/teacher-*.json", TeacherHealth),
        ends=tuple(read_records(run_dir, f"{ENDS_FOLDER}/*.json", End).values()),
        submission=read_record(run_dir / SUBMISSION_FILE, Submission),
        attempts=tuple(read_attempts(run_dir)),
        metrics=tuple(read_tail(metrics_file)),
        metrics_written=_written(metrics_file),
        repair_step=_repair_step(run_dir),
        saved_repair_step=newest_repair_step(run_dir),
        checkpoint=_newest_checkpoint(run_dir),
        best=best_checkpoint(run_dir / "checkpoints"),
        stacks={
            str(path): _written(path) or 0.0
            for path in sorted(run_dir.glob(f"{PROGRESS_FOLDER}/*{STACKS_SUFFIX}"))
        },
        has_student=(run_dir / "student" / "config.json").is_file(),
    )


def _repair_step(run_dir: Path) -> int | None:
    """Return how many steps of an unfinished repair are done."""
    if (run_dir / REPAIRED_FOLDER).is_dir():
        return None
    records = read_tail(run_dir / REPAIR_FOLDER / METRICS_FILE)
    return int(records[-1]["step"]) if records else None


def read_spec_tree(path: Path) -> dict[str, Any]:
    """Return a spec as a tree, unchecked: a spec of another version can still be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def read_tail(path: Path) -> list[dict[str, float]]:
    """Return the last records of a metrics file, without lines that are cut or damaged."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            begin = max(size - TAIL_BYTES, 0)
            file.seek(begin)
            lines = file.read().split(b"\n")
    except OSError:
        return []
    # Unless the whole file was read, the first line is probably the rest of one.
    complete = lines[1:] if begin else lines
    records = [_parse_record(line) for line in complete]
    return [record for record in records if record is not None]


def _parse_record(line: bytes) -> dict[str, float] | None:
    """Return the numbers of one line of metrics.jsonl; None if it is not a step's record."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    numbers = {key: item for key, item in value.items() if isinstance(item, int | float)}
    return numbers if "step" in numbers else None


def _seen(run_dir: Path, pattern: str, kind: type[Kind]) -> tuple[Seen[Kind], ...]:
    """Return the records whose files match a pattern, and when each was written."""
    found = []
    for path, record in read_records(run_dir, pattern, kind).items():
        written = _written(path)
        if written is not None:
            found.append(Seen(record, written))
    return tuple(found)


def _written(path: Path) -> float | None:
    """Return a file's modification time; None if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _newest_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return the newest checkpoint that has a manifest."""
    manifests = sorted(run_dir.glob(f"checkpoints/step-*/{MANIFEST_FILE}"))
    for path in reversed(manifests):
        step, saved = path.parent.name.removeprefix("step-"), _written(path)
        if step.isdecimal() and saved is not None:
            return Checkpoint(int(step), saved)
    return None
