"""Evidence of made runs, for the tests of what is concluded from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dskd_ds.observe.attempts import Attempt
from dskd_ds.observe.evidence import Checkpoint, Evidence, Lease, Seen
from dskd_ds.observe.run_files import End, RankProgress, RoleName, RunStart, TeacherHealth

NOW = 10_000.0
STARTED = 9_000.0
RANK_0_PID = 100
OWNER = "process 100 on node1, since 12:00"
ALIVE, DEAD = Lease(OWNER, is_alive=True), Lease(OWNER, is_alive=False)
START = RunStart(
    host="node1",
    pid=RANK_0_PID,
    started=STARTED,
    attempt=2,
    job_id="",
    launcher="deepspeed",
    num_students=2,
    num_teachers=1,
    first_step=10,
    num_steps=100,
    command="dskd train my.toml",
    cwd="/home/me",
)


def metric(step: int, **more: float) -> dict[str, float]:
    """Return the record of a step of 2 s, of which 0.5 s were waits for the teacher."""
    return {
        "step": step,
        "tokens": step * 1000,
        "step_seconds": 2.0,
        "teacher_wait_seconds": 0.5,
        "sense_wait_seconds": 0.0,
        "tokens_per_second": 500.0,
        "skipped": 0.0,
        **more,
    }


def student(rank: int, written: float = NOW - 1, host: str = "node1") -> Seen[RankProgress]:
    """Return the progress file of a student whose process id is 100 plus its rank."""
    record = RankProgress(
        rank=rank, host=host, pid=RANK_0_PID + rank, phase="forward", step=40, since=NOW - 3
    )
    return Seen(record, written)


def teacher(replica: int, written: float = NOW - 1, **more: Any) -> Seen[TeacherHealth]:
    """Return the health file of a teacher that is idle a quarter of the time."""
    record = TeacherHealth(
        rank=replica,
        host="node2",
        pid=200 + replica,
        phase="serving",
        since=STARTED,
        num_done=80,
        queue_length=1,
        busy_share=0.75,
        idle_share=0.25,
    )
    return Seen(record.model_copy(update=more), written)


def end(
    exit_code: int,
    *,
    message: str = "",
    role: RoleName = "student",
    rank: int = 0,
    pid: int = RANK_0_PID,
    time: float = NOW - 10,
) -> End:
    """Return the record of an end."""
    return End(
        role=role,
        rank=rank,
        host="node1",
        pid=pid,
        exit_code=exit_code,
        message=message,
        time=time,
    )


def attempt(number: int, **more: Any) -> Attempt:
    """Return a job's attempt that runs, or whatever `more` says."""
    made = Attempt(number=number, job_id="77", nodes=["node1"], started=STARTED - 30, first_step=10)
    return made.model_copy(update=more)


def save(run_dir: Path, step: int) -> None:
    """Make the folder of a complete checkpoint. run_dir: of a run, or of its repair."""
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()


def trained(**more: Any) -> Evidence:
    """Return the evidence of a launch at step 40 of 100; `more` replaces parts of it."""
    evidence = Evidence(
        run_dir="runs/my",
        now=NOW,
        spec={"name": "my", "train": {"num_steps": 100}},
        lease=ALIVE,
        start=START,
        students=(student(0), student(1)),
        teachers=(teacher(0),),
        metrics=tuple(metric(step) for step in range(11, 41)),
        metrics_written=NOW - 2,
        checkpoint=Checkpoint(step=30, saved=NOW - 60),
    )
    return replace(evidence, **more)


def ended(**more: Any) -> Evidence:
    """Return the evidence of the same launch after its end, 10 s ago."""
    written = NOW - 11
    quiet = (student(0, written), student(1, written))
    return trained(**{"lease": None, "students": quiet, "metrics_written": written, **more})
