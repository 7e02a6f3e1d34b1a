"""No CPU tensor meets one on the device: fake steps on a device that does not exist."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    """What every case of the worker gave: "ok", or an error."""
    command = [sys.executable, "-m", "tests.unit.plan.pretend_worker"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_whole_steps_stay_on_the_device(results: dict[str, str]) -> None:
    """Each signal's forward and backward pass, the feed's copies, and taking the signal."""
    steps = {name: found for name, found in results.items() if not name.startswith("planted")}
    assert len(steps) >= 12
    assert set(steps.values()) == {"ok"}, steps


def test_planted_mistakes_are_found(results: dict[str, str]) -> None:
    """A `.cpu()` and a constant made on the CPU, in the objective and in the feed."""
    planted = {name: found for name, found in results.items() if name.startswith("planted")}
    assert len(planted) == 4
    for name, found in planted.items():
        assert found.startswith("FakeTensorDeviceMismatchError"), (name, found)
