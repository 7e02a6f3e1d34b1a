"""How often a fault test runs: with a few seeds in CI, and with many in tools/soak.py."""

from __future__ import annotations

import os

SOAK_VARIABLE = "DSKD_SOAK"
"""tools/soak.py sets it."""


def is_soak() -> bool:
    """Return whether the tests run with their full numbers."""
    return bool(os.environ.get(SOAK_VARIABLE))


def seeds(in_ci: int, in_soak: int) -> range:
    """Return the seeds of a test, for pytest.mark.parametrize."""
    return range(in_soak if is_soak() else in_ci)


def count(in_ci: int, in_soak: int) -> int:
    """Return how many times something inside of a test is done."""
    return in_soak if is_soak() else in_ci
