"""How many steps of a run are done, and when the last one was, by what its files say."""

from __future__ import annotations

from dskd_ds.observe.evidence import Evidence, Seen
from dskd_ds.observe.run_files import RankProgress, TeacherHealth


def is_of_last_launch(evidence: Evidence, seen: Seen[RankProgress] | Seen[TeacherHealth]) -> bool:
    """Whether a process has written its file since the last launch began."""
    return evidence.start is None or seen.written >= evidence.start.started


def has_trained(evidence: Evidence) -> bool:
    """Whether the present launch has finished a step; true if that cannot be known.

    While it loads, the last record is that of an earlier launch.
    """
    start = evidence.start
    if start is None:
        return bool(evidence.metrics)
    return start.first_step is not None and steps_done(evidence) > start.first_step


def steps_done(evidence: Evidence) -> int:
    """Return how many steps of the run are done.

    With `log_every_steps` above 1 most steps have no record: then the students' own files tell.
    """
    own = [progress.step for progress in _training_students(evidence)]
    return max([_recorded_steps(evidence), *own])


def last_step_time(evidence: Evidence) -> float | None:
    """Return when the last step was done, in Unix seconds, or somewhat later; None if unknown.

    Of a step without a record it is only known that the students' present phases began after it.
    """
    step = steps_done(evidence)
    if not has_trained(evidence) or step == _recorded_steps(evidence):
        return evidence.metrics_written
    return min(progress.since for progress in _training_students(evidence) if progress.step == step)


def _recorded_steps(evidence: Evidence) -> int:
    return int(evidence.metrics[-1]["step"]) if evidence.metrics else 0


def _training_students(evidence: Evidence) -> list[RankProgress]:
    """Return what the students of the last launch do.

    None before it trains: their steps are then those of the repair.
    """
    if evidence.start is None or evidence.start.first_step is None:
        return []
    return [seen.record for seen in evidence.students if is_of_last_launch(evidence, seen)]
