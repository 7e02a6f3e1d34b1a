"""The senses of tokens in memory, as clustering returns them and write.py takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Senses:
    """Senses of tokens, sorted by owner."""

    owners: NDArray[np.int64]
    """[S] token of each sense."""
    centroids: Tensor
    """[S, D] float32, or bfloat16 if they were read from disk."""
    counts: NDArray[np.int64]
    """[S] number of vectors of each sense."""
    spreads: NDArray[np.float32] | None = None
    """[S] mean squared distance per dimension of its vectors from a sense; None is written as 0."""
    sources: tuple[NDArray[np.int64], ...] = ()
    """For each sense the sources (see cluster.Points) of the points nearest to it, nearest first.
    Empty if contexts are not wanted."""

    @staticmethod
    def join(parts: list[Senses]) -> Senses:
        """Return the senses of all parts. No token may be in two of them."""
        owners = np.concatenate([part.owners for part in parts])
        centroids = torch.cat([part.centroids for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        spreads = np.concatenate([part.spreads for part in parts if part.spreads is not None])
        sources = [source for part in parts for source in part.sources]
        order = np.argsort(owners, kind="stable")
        return Senses(
            owners=owners[order],
            centroids=centroids[torch.from_numpy(order)],
            counts=counts[order],
            spreads=spreads[order],
            sources=tuple(sources[i] for i in order) if sources else (),
        )
