"""The vectors of each token -> its senses, thousands of tokens at a time.

Tokens with about as many vectors are padded to one tensor and clustered together. With `fixed`, a token with at most `num_senses`
vectors keeps them as they are (paper); with `adaptive`, polysemy.py says how many senses a token gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dskd_ds.senses.build.kmeans import PointSets, kmeans, lloyd, num_trials, shares_of
from dskd_ds.senses.build.polysemy import choose
from dskd_ds.senses.build.vectors import Rows, mixed, states_of
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec.senses import SensesSpec

GROUP_ELEMENTS = 1 << 20
"""Numbers in a padded group (4 MB of float32): enough work for one call, little enough for a cache. Part of what makes a result."""


@dataclass(frozen=True)
class Points:
    """What is clustered: vectors, and in a refresh the old senses too. Sorted by token."""

    tokens: NDArray[np.int64]
    """[M]"""
    states: Tensor
    """[M, D] bfloat16"""
    counts: NDArray[np.int64]
    """[M] vectors that a point stands for."""
    spreads: NDArray[np.float32]
    """[M] mean squared distance per dimension of those vectors from the point."""
    sources: NDArray[np.int64]
    """[M] where a vector was found (see vectors.py); -1 - row for a sense of the dictionary that is refreshed."""

    @staticmethod
    def of_rows(rows: Rows) -> Points:
        """Collected vectors."""
        return Points(
            rows["token"].copy(),
            states_of(rows),
            np.ones(len(rows), np.int64),
            np.zeros(len(rows), np.float32),
            rows["place"].copy(),
        )

    @staticmethod
    def join(parts: list[Points]) -> Points:
        """All points of several parts."""
        tokens = np.concatenate([part.tokens for part in parts])
        every = Points(
            tokens,
            torch.cat([part.states for part in parts]),
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("counts", "spreads", "sources")
            ),
        )
        return every.where(np.argsort(tokens, kind="stable"))

    def where(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Points:
        """The points that a mask admits, or that are numbered."""
        return Points(
            self.tokens[rows],
            self.states[torch.from_numpy(rows)],
            self.counts[rows],
            self.spreads[rows],
            self.sources[rows],
        )

    def as_senses(self, with_sources: bool) -> Senses:
        """Each point as a sense of its own."""
        return Senses(
            self.tokens,
            self.states.float(),
            self.counts,
            self.spreads,
            tuple(self.sources[:, None]) if with_sources else (),
        )


def cluster(
    points: Points, spec: SensesSpec, seed: int, device: torch.device, quiet: bool = True
) -> Senses:
    """Cluster each token's points into its senses."""
    tokens, starts, counts = np.unique(points.tokens, return_index=True, return_counts=True)
    few = counts <= (spec.num_senses if spec.clustering == "fixed" else 1)
    parts = [points.where(np.repeat(few, counts)).as_senses(spec.contexts_per_sense > 0)]
    many = np.flatnonzero(~few)
    many = many[np.argsort(counts[many], kind="stable")]
    with tqdm(total=len(many), desc="clustering tokens", disable=quiet, unit="token") as bar:
        while len(many):
            group = many[: max(1, _fitting(counts[many], points.states.shape[1]))]
            many = many[len(group) :]
            parts.append(
                _cluster_group(
                    points, tokens[group], starts[group], counts[group], spec, seed, device
                )
            )
            bar.update(len(group))
    return Senses.join(parts)


def _fitting(counts: NDArray[np.int64], hidden_size: int) -> int:
    """How many of the next tokens (counts ascending) fit into one padded group."""
    return int(((np.arange(len(counts)) + 1) * counts * hidden_size <= GROUP_ELEMENTS).sum())


def _cluster_group(
    points: Points,
    tokens: NDArray[np.int64],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    spec: SensesSpec,
    seed: int,
    device: torch.device,
) -> Senses:
    longest = int(counts.max())
    k = min(spec.num_senses, longest)
    mask = np.arange(longest) < counts[:, None]
    index = np.minimum(starts[:, None] + np.arange(longest), len(points.tokens) - 1)
    states = points.states[torch.from_numpy(index)].to(device).float()
    weights = torch.from_numpy(np.where(mask, points.counts[index], 0)).float().to(device)
    within = torch.from_numpy(points.spreads[index]).to(device)
    middle = torch.bmm((weights / weights.sum(dim=1, keepdim=True))[:, None], states)
    states.sub_(middle)
    if not mask.all():
        states.mul_((weights > 0)[:, :, None])
    sets = PointSets(states, weights)
    clusters = kmeans(
        sets,
        k,
        torch.from_numpy(_draws(tokens, spec.num_senses, seed)[:, :k, : num_trials(k)]).to(device),
    )
    if spec.clustering == "adaptive":
        clusters = _adapted(sets, clusters, k, within, spec)
    shares, sizes = shares_of(clusters, weights, k)
    means = sets.means(shares)
    distances = sets.own_distances(shares, clusters, means)
    spreads = torch.bmm(shares, (distances / states.shape[2] + within)[:, :, None]).squeeze(2)
    real = (sizes > 0).cpu()
    return Senses(
        np.repeat(tokens, real.sum(dim=1).numpy()),
        means.add_(middle).cpu()[real],
        sizes.cpu()[real].round().long().numpy(),
        spreads.cpu()[real].numpy(),
        _nearest(
            clusters.cpu().numpy()[mask],
            distances.cpu().numpy()[mask],
            points.sources[index][mask],
            np.nonzero(mask)[0] * k,
            spec.contexts_per_sense,
        ),
    )


def _draws(tokens: NDArray[np.int64], num_senses: int, seed: int) -> NDArray[np.float32]:
    """[G, num_senses, num_trials] uniform in [0, 1), keyed by the token: they do not depend on which others are in its group."""
    shape = (num_senses, num_trials(num_senses))
    numbers = mixed(tokens.astype(np.uint64)[:, None] ^ mixed(np.uint64(seed))) ^ np.arange(
        shape[0] * shape[1], dtype=np.uint64
    )
    draws: NDArray[np.float32] = (mixed(numbers) >> np.uint64(40)).astype(np.float32) / np.float32(
        1 << 24
    )
    return draws.reshape(-1, *shape)


def _adapted(sets: PointSets, clusters: Tensor, k: int, within: Tensor, spec: SensesSpec) -> Tensor:
    """Clusters merged to each token's own number, then moved to where they are best. within [G, n]: the points' own spreads."""
    shares, sizes = shares_of(clusters, sets.weights, k)
    errors = (
        sets.weights * (sets.own_distances(shares, clusters) + within * sets.points.shape[2])
    ).sum(dim=1)
    merged = choose(sets.gaps(shares), sizes, errors, spec.min_senses, spec.sense_cost).gather(
        1, clusters
    )
    shares, sizes = shares_of(merged, sets.weights, k)
    return lloyd(sets, shares, sizes > 0)


def _nearest(
    clusters: NDArray[np.int64],
    distances: NDArray[np.float32],
    sources: NDArray[np.int64],
    offsets: NDArray[np.int64],
    number: int,
) -> tuple[NDArray[np.int64], ...]:
    """The sources of the points nearest to each cluster's mean. offsets: first cluster number of each point's token."""
    if not number:
        return ()
    numbers = offsets + clusters
    order = np.lexsort((distances, numbers))
    starts = np.unique(numbers[order], return_index=True)[1]
    return tuple(part[:number] for part in np.split(sources[order], starts[1:]))
