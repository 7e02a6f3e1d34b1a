"""k-means of many independent, weighted point sets at once; all of it batched products, the same code on CPU and GPU.

A set of n points in D > n dimensions spans n of them: it is turned into them first (distances stay what they are), so that the
many small sets of a dictionary cost next to nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_ITERATIONS = 25
JITTER = 1e-6
"""Share of the mean squared length that is added to each point's own, so that equal points do not make the factorisation fail."""


def num_trials(k: int) -> int:
    """Candidates for each start of greedy k-means++, as Arthur and Vassilvitskii advise (2007, end of section 5)."""
    return 2 + int(math.log(k))


def coordinates(points: Tensor, weights: Tensor) -> Tensor:
    """Points [G, n, D] with weights [G, n] (0: no point) -> [G, n, min(n, D)] float32 the same distances, centred, zeros for none."""
    mean = (points * weights[:, :, None]).sum(dim=1, keepdim=True) / weights.sum(dim=1)[:, None, None]
    centred = (points - mean) * (weights > 0)[:, :, None]
    if 2 * points.shape[1] > points.shape[2]:  # as many dimensions: nothing to win
        return centred
    gram = torch.bmm(centred, centred.transpose(1, 2)).double()
    scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-30)
    gram.diagonal(dim1=1, dim2=2).add_(JITTER * scale[:, None])
    factor: Tensor = torch.linalg.cholesky(gram)
    return factor.float() * (weights > 0)[:, :, None]


def kmeans(points: Tensor, weights: Tensor, k: int, draws: Tensor) -> Tensor:
    """k-means of G sets. points [G, n, d] float32, weights [G, n] (0: no point), draws [G, k, num_trials(k)] uniform in [0, 1).

    Returns each point's cluster [G, n], below k; a cluster may be empty.
    """
    squares = points.square().sum(dim=2)
    return lloyd(points, weights, greedy_starts(points, squares, weights, k, draws))


def lloyd(points: Tensor, weights: Tensor, centroids: Tensor) -> Tensor:
    """Lloyd's iterations from centroids [G, k, d] (a row of inf takes no points) until nothing moves; returns clusters [G, n]."""
    result = torch.empty(weights.shape, dtype=torch.int64, device=points.device)
    active = torch.arange(len(points), device=points.device)
    squares = points.square().sum(dim=2)
    previous = torch.full_like(result, -1)
    for _ in range(MAX_ITERATIONS):
        clusters = squared_distances(points, squares, centroids).argmin(dim=2)
        moved = ((clusters != previous) & (weights > 0)).any(dim=1)
        result[active] = clusters
        if not bool(moved.any()):
            break
        if int(moved.sum()) * 2 < len(active):  # go on with those sets that still move
            active, points, squares, weights, centroids, clusters = (
                part[moved] for part in (active, points, squares, weights, centroids, clusters))
        means, sizes = cluster_means(points, weights, clusters, centroids.shape[1])
        centroids = torch.where(sizes[:, :, None] > 0, means, centroids)
        previous = clusters
    return result


def cluster_means(points: Tensor, weights: Tensor, clusters: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Weighted means [G, k, d] of the clusters, and their weights [G, k]; zeros where a cluster is empty."""
    members = torch.zeros(len(points), k, points.shape[1], device=points.device)
    members.scatter_(1, clusters[:, None, :], weights[:, None, :])
    sizes = members.sum(dim=2)
    return torch.bmm(members, points) / sizes.clamp_min(1e-30)[:, :, None], sizes


def squared_distances(points: Tensor, squares: Tensor, centroids: Tensor) -> Tensor:
    """[G, n, d] points, their squared lengths [G, n], [G, k, d] centroids -> [G, n, k], not below 0; inf to a centroid of inf."""
    lengths = centroids.square().sum(dim=2)
    products = torch.baddbmm(lengths[:, None], points, centroids.nan_to_num(posinf=0.0).transpose(1, 2), alpha=-2)
    return products.add_(squares[:, :, None]).clamp_min_(0)


def greedy_starts(points: Tensor, squares: Tensor, weights: Tensor, k: int, draws: Tensor) -> Tensor:
    """Greedy k-means++: of several candidates, each drawn in proportion to its squared distance from the nearest start yet, the best."""
    everyone = torch.arange(len(points), device=points.device)
    chosen = []
    mass, nearest = weights, torch.full_like(weights, torch.inf)
    for step in range(k):
        cumulative = mass.cumsum(dim=1)
        picks = torch.searchsorted(cumulative, draws[:, step] * cumulative[:, -1:], right=True).clamp_max(points.shape[1] - 1)
        candidates = points.gather(1, picks[:, :, None].expand(-1, -1, points.shape[2]))
        distances = torch.minimum(nearest[:, :, None], squared_distances(points, squares, candidates))
        best = (distances * weights[:, :, None]).sum(dim=1).argmin(dim=1)
        nearest = distances[everyone, :, best]
        chosen.append(candidates[everyone, best])
        mass = nearest * weights
    return torch.stack(chosen, dim=1)
