"""Seeds that are derived from the run's seed."""

from __future__ import annotations

EPOCH_STRIDE = 1_000_003
"""Distance between the seeds of two runs whose seeds are neighbours; a prime above a million.

So no two pairs of seed and epoch share a derived seed while there are fewer epochs than this.
"""


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of everything that is drawn anew in each epoch."""
    return seed * EPOCH_STRIDE + epoch
