"""Losses between a state at any layer and the senses of that layer, per position.

Source: docs/method.md, "Terms below the head".
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dskd_ds.losses.sense import SenseTargets

PEAKED = 0.9
"""Probability from which on one sense has a posterior to itself."""


@dataclass(frozen=True)
class SenseCandidates:
    """At N positions: the senses of the position's token, and others to tell them from.

    A position whose token has no sense has one candidate, which is not its own; its losses are 0.
    """

    senses: Tensor
    """[U, D] bfloat16: each sense of the batch once."""
    norms: Tensor
    """[U] float32: |s|^2 of each."""
    index: Tensor
    """[N, K] int64: rows of `senses`, padded with 0."""
    mask: Tensor
    """[N, K] bool: which entries are senses, not padding; at least one per position."""
    own: Tensor
    """[N, K] bool: which senses belong to the position's token."""
    distances: Tensor
    """[N, K] float32: squared distance per dimension of the teacher's state from each sense."""
    spread: Tensor
    """[] float32: the dictionary's mean squared distance per dimension of a state from its sense,
    the unit of the distances in `log_posterior`."""

    def to(self, device: torch.device) -> SenseCandidates:
        """Return a copy on another device; the copies are asynchronous."""
        tensors = [getattr(self, entry.name) for entry in fields(self)]
        return SenseCandidates(*(tensor.to(device, non_blocking=True) for tensor in tensors))

    def __getitem__(self, rows: slice) -> SenseCandidates:
        """Return some of the positions."""
        return SenseCandidates(
            self.senses,
            self.norms,
            index=self.index[rows],
            mask=self.mask[rows],
            own=self.own[rows],
            distances=self.distances[rows],
            spread=self.spread,
        )

    def vectors(self) -> Tensor:
        """Return the senses of each position [N, K, D] float32."""
        size = self.senses.shape[1]
        flat = self.senses.index_select(0, self.index.flatten())
        return flat.float().view(*self.index.shape, size)


@dataclass(frozen=True)
class TermSenses:
    """What one loss below the head learns from a dictionary; one of the three is set."""

    smoothed: Tensor | None = None
    """[N, D] float32: the targets of `mse` or `cosine`."""
    candidates: SenseCandidates | None = None
    """For `posterior` and `contrast`."""
    senses: SenseTargets | None = None
    """For `sense`. Its positions count through the N supervised positions."""
    margin: float = 0.0
    """For `sense`: squared distance per dimension."""

    def to(self, device: torch.device) -> TermSenses:
        """Return a copy on another device; the copies are asynchronous."""
        smoothed, candidates, senses = self.smoothed, self.candidates, self.senses
        return TermSenses(
            smoothed=None if smoothed is None else smoothed.to(device, non_blocking=True),
            candidates=None if candidates is None else candidates.to(device),
            senses=None if senses is None else senses.to(device),
            margin=self.margin,
        )


def log_posterior(distances: Tensor, mask: Tensor, spread: Tensor, temperature: float) -> Tensor:
    """Return log r [N, K] of the senses, r(k) ~ exp(-d_k / (2 * temperature * spread)).

    distances: [N, K] squared distances per dimension, up to a constant of the position. mask:
    [N, K], which entries are senses; log r of the others is -inf.
    """
    logits = distances / (-2.0 * temperature * spread)
    return logits.masked_fill(~mask, -torch.inf).log_softmax(dim=1)


def sense_posterior(states: Tensor, candidates: SenseCandidates, temperature: float) -> Tensor:
    """Return KL(r_T || r_S) [N] in nats, over the senses of each position.

    r_T is the posterior at the teacher's state, r_S at the student's states [N, D]. 0 <= result; 0
    where the states are equal.
    """
    size = states.shape[1]
    products = torch.bmm(candidates.vectors(), states.float()[:, :, None]).squeeze(2)
    # Without |h|^2, which is the same for all senses of a position.
    distances = (candidates.norms[candidates.index] - 2.0 * products) / size
    mask, spread = candidates.mask, candidates.spread
    teacher = log_posterior(candidates.distances, mask, spread, temperature)
    student = log_posterior(distances, mask, spread, temperature)
    # Where r_T is 0, also at padding, its share of the KL is 0 and not 0 * inf.
    gap = torch.where(mask, teacher - student.masked_fill(~mask, 0.0), 0.0)
    return (teacher.exp() * gap).sum(dim=1)


def is_peaked(candidates: SenseCandidates, temperature: float) -> Tensor:
    """Return [N], where the teacher's posterior gives one of several senses 0.9.

    There the loss is one of a hard label; where the posterior is flat, it says little.
    """
    log_r = log_posterior(candidates.distances, candidates.mask, candidates.spread, temperature)
    has_choice = candidates.mask.sum(dim=1) > 1
    return (log_r.amax(dim=1).exp() >= PEAKED) & has_choice


def sense_contrast(states: Tensor, candidates: SenseCandidates, temperature: float) -> Tensor:
    """Return InfoNCE [N]: -log of the softmax of cos(h, s) / temperature at the token's sense.

    The token's sense is that of its own senses which is nearest to the teacher's state; all other
    candidates are negatives. states: [N, D] of the student.
    """
    vectors = normalize(candidates.vectors(), dim=2)
    cosines = torch.bmm(vectors, normalize(states.float(), dim=1)[:, :, None]).squeeze(2)
    logits = (cosines / temperature).masked_fill(~candidates.mask, -torch.inf)
    own_distances = candidates.distances.masked_fill(~candidates.own, torch.inf)
    positive = own_distances.argmin(dim=1, keepdim=True)
    return logits.logsumexp(dim=1) - logits.gather(1, positive).squeeze(1)
