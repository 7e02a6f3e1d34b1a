"""Senses of tokens as arrays, before they are written to a dictionary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Senses:
    """Senses of all tokens, sorted by owner."""

    owners: NDArray[np.int64]
    """[S] token of each sense."""
    centroids: Tensor
    """[S, D] float32, or bfloat16 where they were read back from disk."""
    counts: NDArray[np.int64]
    """[S] vectors of each sense."""
    spreads: NDArray[np.float32] | None = None
    """[S] mean squared distance per dimension of those vectors from their sense; None: not known (written as 0)."""
    sources: tuple[NDArray[np.int64], ...] = ()
    """For each sense the sources of the points nearest to it, nearest first; nothing if they were not wanted."""

    @staticmethod
    def join(parts: list[Senses]) -> Senses:
        """All senses of several parts, each with other tokens."""
        owners = np.concatenate([part.owners for part in parts])
        order = np.argsort(owners, kind="stable")
        sources = [source for part in parts for source in part.sources]
        return Senses(
            owners[order],
            torch.cat([part.centroids for part in parts])[torch.from_numpy(order)],
            np.concatenate([part.counts for part in parts])[order],
            np.concatenate([part.spreads for part in parts if part.spreads is not None])[order],
            tuple(sources[i] for i in order) if sources else (),
        )
