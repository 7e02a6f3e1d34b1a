"""Points and settings that the tests of clustering share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.senses.build.cluster import Points
from dskd_ds.spec.senses import SensesSpec

CPU = torch.device("cpu")


def spec(**settings: Any) -> SensesSpec:
    """Return settings with at most 4 senses per token, and some others."""
    return SensesSpec(**({"dictionary": "-", "num_senses": 4} | settings))


def blobs(seed: int, per_centre: int, num_centres: int, size: int, noise: float) -> Tensor:
    """Return points [num_centres * per_centre, size] around centres far from each other."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_centres, size, generator=generator) * 10
    noises = torch.randn(num_centres * per_centre, size, generator=generator)
    return centres.repeat_interleave(per_centre, dim=0) + noise * noises


def padded_sets(seed: int, longest: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the points and integer weights of three padded sets.

    Beyond the end of a set its points are wrong, but not larger than float32 can square precisely.
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(3, longest, size, generator=generator)
    lengths = torch.randint(2, longest + 1, (3, 1), generator=generator)
    weights = torch.randint(1, 4, (3, longest), generator=generator).float()
    weights *= torch.arange(longest) < lengths
    return torch.where(weights[:, :, None] > 0, points, 9.0), weights


def points_of(states: Tensor, tokens: NDArray[np.int64]) -> Points:
    """Return states as collected vectors, whose source is their index."""
    count = len(states)
    return Points(
        tokens=tokens,
        states=states.to(torch.bfloat16),
        counts=np.ones(count, np.int64),
        spreads=np.zeros(count, np.float32),
        sources=np.arange(count),
    )


def slow_error(points: Tensor, weights: Tensor, clusters: Tensor) -> float:
    """Return the weighted squared distance of points from their clusters' means."""
    total = 0.0
    for label in set(clusters[weights > 0].tolist()):
        chosen = (clusters == label) & (weights > 0)
        members, mass = points[chosen].double(), weights[chosen].double()
        mean = (members * mass[:, None]).sum(dim=0) / mass.sum()
        total += float(((members - mean).square().sum(dim=1) * mass).sum())
    return total
