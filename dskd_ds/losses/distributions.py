"""The teacher's distribution at some positions, in the form that the losses use: top k or draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopK:
    """The teacher's k most likely tokens at N positions, and the mass of all others."""

    ids: Tensor
    """[N, k] int64, by descending logit."""
    logits: Tensor
    """[N, k] float16: logit minus the row's maximum."""
    tail: Tensor
    """[N, temperatures] float32: logsumexp of the other tokens' logits / tau, minus maximum / tau.

    -inf if there are no other tokens.
    """

    def log_probs(self, tau: float, column: int) -> tuple[Tensor, Tensor]:
        """Return log-probabilities [N, k] of the k tokens, and [N] of the bucket of all others.

        tau: the temperature of tail's `column`.
        """
        scaled = self.logits.float() / tau
        tail = self.tail[:, column].float()
        total = torch.logsumexp(torch.cat([scaled, tail[:, None]], dim=1), dim=1)
        return scaled - total[:, None], tail - total

    def rows(self, index: Tensor | slice) -> TopK:
        """Return the signal at some of the positions."""
        return TopK(self.ids[index], self.logits[index], self.tail[index])

    def to(self, device: torch.device) -> TopK:
        """Return a copy on another device; the copies are asynchronous."""
        return TopK(
            self.ids.to(device, non_blocking=True),
            self.logits.to(device, non_blocking=True),
            self.tail.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Sampled:
    """Draws from the teacher's distribution at N positions, at the loss's temperature.

    They are an unbiased estimate of that distribution.
    """

    ids: Tensor
    """[N, m] int64, distinct within a row, padded with 0."""
    weights: Tensor
    """[N, m] float32: share of the draws that fell on the id. Rows add up to 1; padding has 0."""
    log_probs: Tensor
    """[N] float32: the draws' mean log-probability under the teacher, at the loss's temperature.

    It turns the student's cross-entropy on the draws into a KL.
    """

    def rows(self, index: Tensor | slice) -> Sampled:
        """Return the draws at some of the positions."""
        return Sampled(self.ids[index], self.weights[index], self.log_probs[index])

    def to(self, device: torch.device) -> Sampled:
        """Return a copy on another device; the copies are asynchronous."""
        return Sampled(
            self.ids.to(device, non_blocking=True),
            self.weights.to(device, non_blocking=True),
            self.log_probs.to(device, non_blocking=True),
        )
