"""What the sums of a step are divided by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """What a step's sums are divided by, over all ranks and accumulation steps.

    With [loss] normalise = "sequence" both are the number of sequences.
    """

    tokens: int
    """Supervised positions."""
    senses: int
    """Positions with the sense term."""
