"""k-means of many independent, weighted point sets at once; all of it batched products, the same code on CPU and GPU.

Everything k-means asks is an inner product of points with points: a centroid is a mean of points (its `shares` of each). Where a set
has far fewer points than dimensions their Gram matrix answers all of it, so the many small sets of a dictionary cost next to nothing.
Tensors are laid out [G, k, n], points last: a product of few rows with many columns is twice as fast as the other way round.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_ITERATIONS = 25
STILL_SHARE = 0.02
"""A set is done when no more than this share of its points changes its cluster. Waiting for none to move takes 1.3 to 1.6 times as
long on real states, and gains 0.3 % of the error."""
GRAM_SHARE = 3
"""The Gram matrix is used for sets of at most a third as many points as dimensions: beyond, making it costs more than it saves."""


def num_trials(k: int) -> int:
    """Candidates for each start of greedy k-means++: twice as many as Arthur and Vassilvitskii advise (2007, end of section 5).

    On real states that takes 0.3 % off the error, as much as STILL_SHARE puts on, and eight rows hardly cost more than four.
    """
    return 2 * (2 + int(math.log(k)))


class PointSets:
    """G sets of n weighted points each, and the inner products of anything made of them."""

    def __init__(self, points: Tensor, weights: Tensor, gram: Tensor | None = None) -> None:
        """points [G, n, D] float32, zeros where there is no point (centred ones are more exact); weights [G, n], 0: no point."""
        self.points, self.weights = points, weights
        if gram is None and points.shape[1] * GRAM_SHARE <= points.shape[2]:
            gram = torch.bmm(points, points.transpose(1, 2))
        self.gram = gram
        self.squares = (
            torch.linalg.vector_norm(points, dim=2).square_()
            if gram is None
            else gram.diagonal(dim1=1, dim2=2)
        )

    def where(self, mask: Tensor) -> PointSets:
        """Some of the sets."""
        return PointSets(
            self.points[mask], self.weights[mask], None if self.gram is None else self.gram[mask]
        )

    def with_points(self, picks: Tensor) -> Tensor:
        """[G, L] numbers of points -> their inner products with every point [G, L, n]."""
        source = self.points if self.gram is None else self.gram
        picked = source.gather(1, picks[:, :, None].expand(-1, -1, source.shape[2]))
        return torch.bmm(picked, self.points.transpose(1, 2)) if self.gram is None else picked

    def with_means(self, shares: Tensor, means: Tensor | None = None) -> Tensor:
        """Means, given as shares of each point [G, k, n] -> their inner products with every point [G, k, n].

        means: [G, k, D] themselves, if they are known.
        """
        if self.gram is None:
            return torch.bmm(
                self.means(shares) if means is None else means, self.points.transpose(1, 2)
            )
        return torch.bmm(shares, self.gram)

    def distances(self, products: Tensor, lengths: Tensor) -> Tensor:
        """Inner products [G, k, n] and squared lengths [G, k] -> squared distances from every point [G, k, n], not below 0."""
        return (
            torch.add(self.squares[:, None], products, alpha=-2)
            .add_(lengths[:, :, None])
            .clamp_min_(0)
        )

    def means(self, shares: Tensor) -> Tensor:
        """[G, k, D]"""
        return torch.bmm(shares, self.points)

    def gaps(self, shares: Tensor) -> Tensor:
        """Squared distances between means [G, k, k]."""
        products = torch.bmm(self.with_means(shares), shares.transpose(1, 2))
        lengths = products.diagonal(dim1=1, dim2=2)
        return (lengths[:, :, None] + lengths[:, None] - 2 * products).clamp_min(0)

    def own_distances(
        self, shares: Tensor, clusters: Tensor, means: Tensor | None = None
    ) -> Tensor:
        """[G, n]: squared distance of each point from the mean of its cluster; means as in `with_means`."""
        products = self.with_means(shares, means)
        return (
            self.distances(products, (products * shares).sum(dim=2))
            .gather(1, clusters[:, None])
            .squeeze(1)
        )


def shares_of(clusters: Tensor, weights: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each cluster's mean as shares of the points [G, k, n], and its weight [G, k]; zeros where it is empty."""
    members = torch.zeros(len(clusters), k, clusters.shape[1], device=clusters.device).scatter_(
        1, clusters[:, None], weights[:, None]
    )
    sizes = members.sum(dim=2)
    return members.div_(sizes.clamp_min(1e-30)[:, :, None]), sizes


def kmeans(sets: PointSets, k: int, draws: Tensor) -> Tensor:
    """k-means of every set. draws: [G, k, num_trials(k)] uniform in [0, 1). Returns each point's cluster [G, n]; one may be empty."""
    picks = greedy_starts(sets, k, draws)
    shares = torch.zeros(*picks.shape, sets.points.shape[1], device=picks.device).scatter_(
        2, picks[:, :, None], 1.0
    )
    return lloyd(sets, shares, torch.ones_like(picks, dtype=torch.bool))


def lloyd(sets: PointSets, shares: Tensor, alive: Tensor) -> Tensor:
    """Lloyd's iterations from means [G, k, n] (those not alive [G, k] take no points) until hardly a point moves; clusters [G, n]."""
    result = torch.zeros(sets.weights.shape, dtype=torch.int64, device=shares.device)
    active = torch.arange(len(shares), device=shares.device)
    clusters = torch.full_like(result, -1)
    state = shares if sets.gram is not None else sets.means(shares)
    sizes = torch.zeros_like(shares[:, :, 0])
    for step in range(MAX_ITERATIONS):
        previous = clusters
        products = torch.bmm(state, sets.points.transpose(1, 2) if sets.gram is None else sets.gram)
        lengths = state.square().sum(dim=2) if sets.gram is None else (products * state).sum(dim=2)
        lengths = lengths.masked_fill_(~alive, torch.inf)
        clusters = (
            torch.add(lengths[:, :, None], products, alpha=-2).min(dim=1).indices
        )  # argmin is several times slower here
        changed = (clusters != previous) & (sets.weights > 0)
        moved = changed.sum(dim=1) > STILL_SHARE * (sets.weights > 0).sum(dim=1)
        result[active] = clusters
        number = int(moved.sum())
        if number == 0:
            break
        if number * 4 < len(active) * 3:  # go on with those sets that still move
            active, state, sizes, alive, previous, clusters, changed = (
                part[moved] for part in (active, state, sizes, alive, previous, clusters, changed)
            )
            sets = sets.where(moved)
        if sets.gram is not None:
            fresh, sizes = shares_of(clusters, sets.weights, state.shape[1])
            state = torch.where(sizes[:, :, None] > 0, fresh, state)
        else:
            state, sizes = moved_means(
                sets, state, sizes, previous if step else None, clusters, changed
            )
    return result


def moved_means(
    sets: PointSets,
    means: Tensor,
    sizes: Tensor,
    previous: Tensor | None,
    clusters: Tensor,
    changed: Tensor,
) -> tuple[Tensor, Tensor]:
    """Means [G, k, D] and weights [G, k] of clusters, from those before: only points that changed [G, n] are read, if they are few."""
    k, most = means.shape[1], int(changed.sum(dim=1).max())
    if previous is None or most * 3 > changed.shape[1]:
        shares, sizes = shares_of(clusters, sets.weights, k)
        return torch.where(sizes[:, :, None] > 0, sets.means(shares), means), sizes
    columns = (
        changed.float().topk(most, dim=1).indices
    )  # sets where fewer changed get some that did not: they cancel out
    weights = sets.weights.gather(1, columns)
    joins, leaves = (
        torch.zeros(*sizes.shape, most, device=means.device).scatter_(
            1, numbers.gather(1, columns)[:, None], weights[:, None]
        )
        for numbers in (clusters, previous)
    )
    change = joins.sub_(leaves)
    after = sizes + change.sum(dim=2)
    sums = means * sizes[:, :, None] + torch.bmm(
        change, sets.points.gather(1, columns[:, :, None].expand(-1, -1, means.shape[2]))
    )
    return torch.where(
        after[:, :, None] > 0.5, sums / after.clamp_min(0.5)[:, :, None], means
    ), after


def greedy_starts(sets: PointSets, k: int, draws: Tensor) -> Tensor:
    """Greedy k-means++: of several candidates, each drawn in proportion to its squared distance from the nearest start yet, the best.

    Returns numbers of points [G, k].
    """
    everyone = torch.arange(len(draws), device=draws.device)
    chosen = []
    mass, nearest = sets.weights, torch.full_like(sets.weights, torch.inf)
    for step in range(k):
        cumulative = mass.cumsum(dim=1)
        picks = torch.searchsorted(
            cumulative, draws[:, step] * cumulative[:, -1:], right=True
        ).clamp_max_(mass.shape[1] - 1)
        distances = sets.distances(sets.with_points(picks), sets.squares.gather(1, picks))
        distances = torch.minimum(nearest[:, None], distances)
        best = torch.bmm(distances, sets.weights[:, :, None]).squeeze(2).argmin(dim=1)
        nearest = distances[everyone, best]
        chosen.append(picks[everyone, best])
        mass = nearest * sets.weights
    return torch.stack(chosen, dim=1)
