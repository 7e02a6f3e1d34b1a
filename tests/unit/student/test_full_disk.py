"""A real disk that gets full and read-only: the earlier checkpoints stay, and the run can go on."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

# Slow: it mounts a disk, which some machines allow to root only. CI runs it.
pytestmark = [pytest.mark.fault, pytest.mark.slow]

WORKER = "tests.unit.student.full_disk_worker"
NUM_RECORDS = 200
"""Metrics that the worker writes."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("disk")
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*own_mounts, sys.executable, "-m", WORKER, str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def found(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What happened on the disk, by its state."""
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize(
    ("disk", "error"),
    [
        ("full", "No space left on device"),
        ("no byte free", "No space left on device"),
        ("read-only", "Read-only file system"),
    ],
)
def test_a_save_fails_with_the_reason_and_the_earlier_checkpoint_is_intact(
    found: dict[str, Any], disk: str, error: str
) -> None:
    assert "this checkpoint cannot be written" in found[disk]["reason"]
    assert error in found[disk]["reason"]
    assert found[disk]["only_complete"]
    assert found[disk]["resumed_step"] == found["full"]["last_saved"] >= 1


def test_the_next_save_succeeds_when_there_is_room(found: dict[str, Any]) -> None:
    step = found["full"]["last_saved"] + 1
    expected = {"reason": "", "step": step, "only_complete": True, "resumed_step": step}
    assert found["free again"] == expected


def test_metrics_cost_one_warning_and_go_on_when_there_is_room(
    found: dict[str, Any], ended: subprocess.CompletedProcess[str]
) -> None:
    num_written_meanwhile, *steps = found["metrics"]
    assert 1 <= num_written_meanwhile < NUM_RECORDS - 1
    # Some that came meanwhile are lost, as the warning says; no line is broken.
    assert steps == [*range(1, len(steps)), NUM_RECORDS]
    assert len(steps) > num_written_meanwhile
    assert ended.stderr.count("metrics cannot be written") == 1
