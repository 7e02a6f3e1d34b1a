"""The teacher's distribution at some positions, in the form in which a loss uses it: its top k, or draws from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopK:
    """The teacher's signal at N positions."""

    ids: Tensor
    """[N, k] int64, in order of falling logit."""
    logits: Tensor
    """[N, k] float16: logit minus the row's maximum."""
    tail: Tensor
    """[N, temperatures] float32: logsumexp of the other tokens' logits / tau, minus maximum / tau; -inf if there are none."""

    def log_probs(self, tau: float, column: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities [N, k] of the k tokens and [N] of the bucket, at the temperature of tail's `column`."""
        scaled = self.logits.float() / tau
        tail = self.tail[:, column].float()
        total = torch.logsumexp(torch.cat([scaled, tail[:, None]], dim=1), dim=1)
        return scaled - total[:, None], tail - total

    def rows(self, index: Tensor | slice) -> TopK:
        """The signal at some of the positions."""
        return TopK(self.ids[index], self.logits[index], self.tail[index])

    def to(self, device: torch.device) -> TopK:
        """The same on another device."""
        return TopK(
            *(part.to(device, non_blocking=True) for part in (self.ids, self.logits, self.tail))
        )


@dataclass(frozen=True)
class Sampled:
    """Draws from the teacher's distribution at the loss's temperature, for N positions: its unbiased estimate."""

    ids: Tensor
    """[N, m] int64, distinct within a row, padded with 0."""
    weights: Tensor
    """[N, m] float32: the share of the draws that fell on the id. Rows add up to 1; padding has 0."""
    log_probs: Tensor
    """[N] float32: the teacher's own log-probability of its draws at that temperature, their mean by share. What turns the student's
    cross-entropy on the draws into a KL."""

    def rows(self, index: Tensor | slice) -> Sampled:
        """The draws at some of the positions."""
        return Sampled(self.ids[index], self.weights[index], self.log_probs[index])

    def to(self, device: torch.device) -> Sampled:
        """The same on another device."""
        return Sampled(
            *(
                part.to(device, non_blocking=True)
                for part in (self.ids, self.weights, self.log_probs)
            )
        )
