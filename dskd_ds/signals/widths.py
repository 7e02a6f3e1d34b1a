"""Bytes of a hidden state on the wire; known without torch, for the plan."""

from __future__ import annotations

from dskd_ds.spec.processes import HiddenFormat

BLOCK = 64
"""Numbers that share a scale; the last block of a row may be shorter."""


def hidden_width(hidden_format: HiddenFormat, hidden_size: int) -> tuple[int, int]:
    """(bytes of a row's numbers, scales of a row)."""
    return (
        (2 * hidden_size, 0)
        if hidden_format == "bfloat16"
        else (hidden_size, -(-hidden_size // BLOCK))
    )
