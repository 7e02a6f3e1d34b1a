"""Results equal the recorded ones bit for bit: dictionary, losses, gradients, replies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Slow: CI compares; `make test` has no time for it.
pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(900)]

GOLDEN = Path(__file__).with_name("golden.json")


def floats(values: Any) -> Any:
    """Return the tree with hexadecimal floats parsed, and without digests."""
    if isinstance(values, dict):
        return {key: floats(value) for key, value in values.items() if key != "digest"}
    if isinstance(values, list):
        return [floats(value) for value in values]
    return float.fromhex(values)


def test_results_are_the_recorded_ones(tmp_path: Path) -> None:
    """With other versions of torch or transformers than recorded, numbers only need to be close."""
    argv = [sys.executable, "-m", "tests.processes.golden_worker", str(tmp_path / "golden")]
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, text=True, timeout=850, env=dict(os.environ), check=True
    )
    found, expected = json.loads(done.stdout), json.loads(GOLDEN.read_text())
    if found["made_with"] == expected["made_with"]:
        assert found == expected
        return
    for part in ("steps", "gradients", "replies"):
        close_to(floats(found[part]), floats(expected[part]))


def close_to(found: Any, expected: Any) -> None:
    """Assert that two trees of numbers are close."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            close_to(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            close_to(mine, theirs)
    else:
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
