"""Clusters the vectors of each token into its senses, thousands of tokens at a time.

Tokens with similar numbers of vectors are padded to one tensor and clustered together. With
`fixed`, a token with at most `num_senses` vectors keeps them as they are (paper). With `adaptive`,
polysemy.py chooses how many senses a token gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.senses.build.kmeans import PointSets, kmeans, lloyd, num_trials, shares_of
from dskd_ds.senses.build.polysemy import choose
from dskd_ds.senses.build.vectors import Rows, mixed, states_of
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec.senses import SensesSpec

GROUP_ELEMENTS = 1 << 20
"""Numbers in a padded group (4 MB of float32): enough work for one call, and small enough for a
cache. The result depends on it."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """What is clustered: vectors, and in a refresh the old senses too. Sorted by token."""

    tokens: Ints
    """[M]"""
    states: Tensor
    """[M, D] bfloat16"""
    counts: Ints
    """[M] number of vectors that a point stands for."""
    spreads: NDArray[np.float32]
    """[M] mean squared distance per dimension of those vectors from the point."""
    sources: Ints
    """[M] the position of a vector in the corpus (see vectors.py), or -1 - row for a sense of the
    dictionary that is refreshed."""

    @staticmethod
    def of_rows(rows: Rows) -> Points:
        """Return collected vectors as points."""
        return Points(
            tokens=rows["token"].copy(),
            states=states_of(rows),
            counts=np.ones(len(rows), np.int64),
            spreads=np.zeros(len(rows), np.float32),
            sources=rows["position"].copy(),
        )

    @staticmethod
    def join(parts: list[Points]) -> Points:
        """Return the points of all parts, sorted by token; the order within a token stays."""
        joined = Points(
            tokens=np.concatenate([part.tokens for part in parts]),
            states=torch.cat([part.states for part in parts]),
            counts=np.concatenate([part.counts for part in parts]),
            spreads=np.concatenate([part.spreads for part in parts]),
            sources=np.concatenate([part.sources for part in parts]),
        )
        return joined.where(np.argsort(joined.tokens, kind="stable"))

    def where(self, rows: NDArray[np.bool_] | Ints) -> Points:
        """Return the points that a mask or a list of indices selects."""
        return Points(
            tokens=self.tokens[rows],
            states=self.states[torch.from_numpy(rows)],
            counts=self.counts[rows],
            spreads=self.spreads[rows],
            sources=self.sources[rows],
        )

    def as_senses(self, with_sources: bool) -> Senses:
        """Return each point as one sense."""
        return Senses(
            owners=self.tokens,
            centroids=self.states.float(),
            counts=self.counts,
            spreads=self.spreads,
            sources=tuple(self.sources[:, None]) if with_sources else (),
        )


@dataclass(frozen=True)
class _Tokens:
    """Tokens whose points are clustered."""

    ids: Ints
    """[G]"""
    starts: Ints
    """[G] index of each token's first point."""
    counts: Ints
    """[G] number of points of each token."""

    def where(self, selected: Ints | slice) -> _Tokens:
        """Return some of the tokens."""
        return _Tokens(self.ids[selected], self.starts[selected], self.counts[selected])


@dataclass(frozen=True)
class _Padded:
    """The points of G tokens, padded to the n points of the most frequent one."""

    index: Ints
    """[G, n] number of each point among those of all tokens. Padding has the number of another."""
    mask: NDArray[np.bool_]
    """[G, n] False where there is padding."""
    sets: PointSets
    """The points minus `middle`. Padding is zero, with the weight 0."""
    middle: Tensor
    """[G, 1, D] mean of each token's points. Distances are more exact between centred points."""
    own_spreads: Tensor
    """[G, n] spreads of the points themselves."""

    @staticmethod
    def of(points: Points, tokens: _Tokens, device: torch.device) -> _Padded:
        """Pad and centre the points of some tokens. `points` are those of all tokens."""
        places = np.arange(int(tokens.counts.max()))
        mask = places < tokens.counts[:, None]
        index = np.minimum(tokens.starts[:, None] + places, len(points.tokens) - 1)
        states = points.states[torch.from_numpy(index)].to(device).float()
        weights = torch.from_numpy(np.where(mask, points.counts[index], 0)).float().to(device)
        middle = torch.bmm((weights / weights.sum(dim=1, keepdim=True))[:, None], states)
        states.sub_(middle)
        if not mask.all():
            states.mul_((weights > 0)[:, :, None])
        own_spreads = torch.from_numpy(points.spreads[index]).to(device)
        return _Padded(index, mask, PointSets(states, weights), middle, own_spreads)


def cluster(points: Points, spec: SensesSpec, seed: int, device: torch.device) -> Senses:
    """Cluster each token's points into its senses."""
    ids, starts, counts = np.unique(points.tokens, return_index=True, return_counts=True)
    few = counts <= (spec.num_senses if spec.clustering == "fixed" else 1)
    points_of_few = points.where(np.repeat(few, counts))
    parts = [points_of_few.as_senses(spec.contexts_per_sense > 0)]
    many = np.flatnonzero(~few)
    # Tokens of one group have similar counts, which keeps padding low.
    by_count = many[np.argsort(counts[many], kind="stable")]
    tokens = _Tokens(ids, starts, counts).where(by_count)
    start = 0
    while start < len(by_count):
        # A token that fills more than a group by itself is clustered alone.
        group_size = max(1, _fitting(tokens.counts[start:], points.states.shape[1]))
        group = tokens.where(slice(start, start + group_size))
        parts.append(_cluster_group(points, group, spec=spec, seed=seed, device=device))
        start += group_size
    return Senses.join(parts)


def _fitting(counts: Ints, hidden_size: int) -> int:
    """Return how many of the next tokens (counts ascending) fit into one padded group."""
    elements = (np.arange(len(counts)) + 1) * counts * hidden_size
    return int((elements <= GROUP_ELEMENTS).sum())


def _cluster_group(
    points: Points, tokens: _Tokens, spec: SensesSpec, seed: int, device: torch.device
) -> Senses:
    """Cluster the points of G tokens together. `points` are those of all tokens."""
    padded = _Padded.of(points, tokens, device)
    sets, mask = padded.sets, padded.mask
    k = min(spec.num_senses, mask.shape[1])
    draws = _draws(tokens.ids, spec.num_senses, seed)[:, :k, : num_trials(k)]
    clusters = kmeans(sets, k, torch.from_numpy(draws).to(device))
    if spec.clustering == "adaptive":
        clusters = _adapted(sets, clusters, k=k, own_spreads=padded.own_spreads, spec=spec)

    shares, sizes = shares_of(clusters, sets.weights, k)
    means = sets.means(shares)
    distances = sets.own_distances(shares, clusters, means)
    # In a refresh a point may be an old sense, whose vectors already lie around it.
    point_spreads = distances / means.shape[2] + padded.own_spreads
    spreads = torch.bmm(shares, point_spreads[:, :, None]).squeeze(2)

    has_points = (sizes > 0).cpu()
    sources = _nearest_sources(
        clusters.cpu().numpy()[mask],
        distances=distances.cpu().numpy()[mask],
        sources=points.sources[padded.index][mask],
        offsets=np.nonzero(mask)[0] * k,
        count=spec.contexts_per_sense,
    )
    return Senses(
        owners=np.repeat(tokens.ids, has_points.sum(dim=1).numpy()),
        centroids=means.add_(padded.middle).cpu()[has_points],
        counts=sizes.cpu()[has_points].round().long().numpy(),
        spreads=spreads.cpu()[has_points].numpy(),
        sources=sources,
    )


def _draws(tokens: Ints, num_senses: int, seed: int) -> NDArray[np.float32]:
    """Return numbers uniform in [0, 1), [G, num_senses, num_trials].

    They are keyed by the token, so they do not depend on the other tokens of its group.
    """
    shape = (num_senses, num_trials(num_senses))
    keys = mixed(tokens.astype(np.uint64)[:, None] ^ mixed(np.uint64(seed)))
    bits = mixed(keys ^ np.arange(shape[0] * shape[1], dtype=np.uint64)) >> np.uint64(40)
    draws: NDArray[np.float32] = bits.astype(np.float32) / np.float32(1 << 24)
    return draws.reshape(-1, *shape)


def _adapted(
    sets: PointSets, clusters: Tensor, k: int, own_spreads: Tensor, spec: SensesSpec
) -> Tensor:
    """Merge clusters to the best number for each token, then run Lloyd's iterations again.

    own_spreads: [G, n] spreads of the points themselves.
    """
    shares, sizes = shares_of(clusters, sets.weights, k)
    squared = sets.own_distances(shares, clusters) + own_spreads * sets.points.shape[2]
    errors = (sets.weights * squared).sum(dim=1)
    labels = choose(
        sets.gaps(shares),
        sizes=sizes,
        errors=errors,
        min_senses=spec.min_senses,
        sense_cost=spec.sense_cost,
    )
    merged = labels.gather(1, clusters)
    shares, sizes = shares_of(merged, sets.weights, k)
    return lloyd(sets, shares, sizes > 0)


def _nearest_sources(
    clusters: Ints, distances: NDArray[np.float32], sources: Ints, offsets: Ints, count: int
) -> tuple[Ints, ...]:
    """Return for each cluster the sources of the `count` points nearest to its mean.

    clusters, distances, sources, offsets: [M] of each point; `offsets` is added to the cluster, so
    that clusters of different tokens differ.
    """
    if not count:
        return ()
    labels = offsets + clusters
    order = np.lexsort((distances, labels))
    starts = np.unique(labels[order], return_index=True)[1]
    return tuple(part[:count] for part in np.split(sources[order], starts[1:]))
