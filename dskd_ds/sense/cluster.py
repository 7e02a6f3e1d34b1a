"""k-means for thousands of tokens at a time: vectors of each token -> its senses.

Tokens with about as many vectors are padded to one tensor and clustered together; k-means++ starts and every Lloyd step are
batched matrix products, the same code on CPU and GPU. A token with at most k vectors keeps them as they are (paper).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dskd_ds.sense.collect import Vectors

ITERATIONS = 25
GROUP_ELEMENTS = 1 << 25
"""Largest padded group, in numbers (128 MB of float32)."""


@dataclass(frozen=True)
class Senses:
    """Senses of all tokens, sorted by owner."""

    owners: NDArray[np.int64]
    """[S] token of each sense."""
    centroids: Tensor
    """[S, D] float32"""
    counts: NDArray[np.int64]
    """[S] vectors of each sense."""
    spreads: NDArray[np.float32] | None = None
    """[S] mean squared distance per dimension of those vectors from their sense; None: not known (written as 0)."""


def cluster(vectors: Vectors, num_senses: int, seed: int, device: torch.device, quiet: bool = False) -> Senses:
    """Cluster each token's vectors (sorted by token) into at most `num_senses` senses."""
    tokens, starts, counts = np.unique(vectors.tokens, return_index=True, return_counts=True)
    states = torch.from_numpy(vectors.states.view(np.int16)).view(torch.bfloat16)
    few = counts <= num_senses
    parts = [_as_they_are(tokens[few], starts[few], counts[few], states)]
    many = np.flatnonzero(~few)
    many = many[np.argsort(counts[many], kind="stable")]
    with tqdm(total=len(many), desc="clustering tokens", disable=quiet, unit="token") as bar:
        while len(many):
            group = many[: max(1, _fitting(counts[many], states.shape[1]))]
            many = many[len(group) :]
            parts.append(_cluster_group(tokens[group], starts[group], counts[group], states, num_senses, seed, device))
            bar.update(len(group))
    owners = np.concatenate([part.owners for part in parts])
    order = np.argsort(owners, kind="stable")
    centroids = torch.cat([part.centroids for part in parts])[torch.from_numpy(order)]
    return Senses(owners[order], centroids, np.concatenate([part.counts for part in parts])[order])


def _as_they_are(tokens: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64], states: Tensor) -> Senses:
    rows = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum()) \
        if len(tokens) else np.zeros(0, np.int64)
    return Senses(np.repeat(tokens, counts), states[torch.from_numpy(rows)].float(), np.ones(len(rows), np.int64))


def _fitting(counts: NDArray[np.int64], hidden_size: int) -> int:
    """How many of the next tokens (counts ascending) fit into one padded group."""
    return int(((np.arange(len(counts)) + 1) * counts * hidden_size <= GROUP_ELEMENTS).sum())


def _cluster_group(tokens: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64], states: Tensor,
                   k: int, seed: int, device: torch.device) -> Senses:
    longest = int(counts.max())
    index = torch.from_numpy(starts)[:, None] + torch.arange(longest)
    mask = torch.arange(longest) < torch.from_numpy(counts)[:, None]
    points = states[index.clamp_max(len(states) - 1)].float().to(device)
    # A token's start is keyed by the token, so its senses do not depend on which others are in its group.
    draws = torch.stack([torch.rand(k, generator=torch.Generator().manual_seed(seed * 1_000_003 + int(t))) for t in tokens])
    centroids, sizes = kmeans(points, mask.to(device), k, draws.to(device))
    real = (sizes > 0).cpu()
    owners = np.repeat(tokens, real.sum(dim=1).numpy())
    return Senses(owners, centroids.cpu()[real], sizes.cpu()[real].numpy())


def kmeans(points: Tensor, mask: Tensor, k: int, draws: Tensor) -> tuple[Tensor, Tensor]:
    """k-means of G independent sets. points [G, n, D] float32, mask [G, n] bool (which are real), draws [G, k] uniform in [0, 1).

    Returns centroids [G, k, D] and the number of points of each [G, k] (0: a centroid without points, to be dropped).
    """
    points = points * mask[:, :, None]
    squares = points.square().sum(dim=2)
    centroids = _plus_plus(points, squares, mask, k, draws)
    assignment = torch.full(mask.shape, -1, device=points.device)
    for _ in range(ITERATIONS):
        nearest = _distances(points, squares, centroids).argmin(dim=2)
        if torch.equal(nearest, assignment):
            break
        assignment = nearest
        members = torch.nn.functional.one_hot(assignment, k).float() * mask[:, :, None]
        sizes = members.sum(dim=1)
        means = torch.bmm(members.transpose(1, 2), points) / sizes.clamp_min(1)[:, :, None]
        centroids = torch.where(sizes[:, :, None] > 0, means, centroids)
    return centroids, sizes.long()


def _plus_plus(points: Tensor, squares: Tensor, mask: Tensor, k: int, draws: Tensor) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007): each start is drawn in proportion to its squared distance from the nearest yet."""
    rows = torch.arange(len(points), device=points.device)
    chosen = []
    weights = mask.float()
    for step in range(k):
        cumulative = weights.cumsum(dim=1)
        target = draws[:, step] * cumulative[:, -1]
        pick = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(1).clamp_max(mask.shape[1] - 1)
        chosen.append(points[rows, pick])
        distance = _distances(points, squares, chosen[-1][:, None]).squeeze(2) * mask
        weights = distance if step == 0 else torch.minimum(weights, distance)
    return torch.stack(chosen, dim=1)


def _distances(points: Tensor, squares: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances [G, n, k], not below 0."""
    products = torch.bmm(points, centroids.transpose(1, 2))
    return (squares[:, :, None] - 2 * products + centroids.square().sum(dim=2)[:, None]).clamp_min(0)
