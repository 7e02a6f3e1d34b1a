"""The order in which files of tests are given to the workers: long ones first.

pytest-xdist gives whole files to its two workers, by default those with the most tests first. Files
with few but long tests would then be left for the end, where one worker waits for the other.
"""

from __future__ import annotations

from pathlib import Path

LONGEST_FIRST = (
    "test_sweep.py",
    "test_nodes.py",
    "test_survival.py",
    "test_paper_table.py",
    "test_bench.py",
    "test_teacher_ranks.py",
    "test_paper_recipe.py",
    "test_senses.py",
    "test_signal_cache.py",
    "test_watch.py",
    "test_repair.py",
    "test_golden.py",
    "test_health.py",
    "test_tasks.py",
    "test_continuations.py",
    "test_pack.py",
    "test_end_to_end.py",
    "test_configs.py",
    "test_checkpoints.py",
    "test_bad_teachers.py",
    "test_killed_student.py",
    "test_verdict.py",
    "test_teacher_senses.py",
    "test_optimizer.py",
    # On SLURM; the first two share no fixture but the cluster.
    "test_training.py",
    "test_preempted.py",
    "test_readme.py",
    "test_mpi.py",
    "test_refused.py",
)
"""Files with launches that take minutes. One that is missing here only comes later."""
FOLDERS = ("processes", "slurm")
"""Folders of the tests with launches."""


def place_of(path: Path) -> int:
    """Return the sort key of a file: long files, other files with launches, then unit tests."""
    if path.parent.name not in FOLDERS:
        return len(LONGEST_FIRST) + 1
    is_long = path.name in LONGEST_FIRST
    return LONGEST_FIRST.index(path.name) if is_long else len(LONGEST_FIRST)
