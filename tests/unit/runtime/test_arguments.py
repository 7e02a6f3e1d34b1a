"""Numbers of a command line."""

from __future__ import annotations

import argparse

import pytest

from dskd_ds.runtime.arguments import at_least


@pytest.mark.parametrize("text", ["2000000000", "2_000_000_000", "2e9", "2E+9"])
def test_large_numbers_may_be_written_shortly(text: str) -> None:
    assert at_least(1)(text) == 2_000_000_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("many", "a whole number"),
        ("1.5", "a whole number"),
        ("15e-1", "a whole number"),
        ("nan", "a whole number"),
        ("1e999", "a whole number"),
        ("0", "at least 1"),
        ("-2e3", "at least 1"),
    ],
)
def test_other_numbers_are_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=reason):
        at_least(1)(text)
