"""What is taken from the teacher's logits: the top k, and the log-sum-exp of all others for each temperature.

The receiver normalises these k + 1 values together (METHOD.md, "On the wire"): rounded logits against an exact total would
give probabilities that add up to more than 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dskd_ds.link.messages import Array


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

    def to(self, device: torch.device) -> TopK:
        """The same on another device."""
        return TopK(*(part.to(device, non_blocking=True) for part in (self.ids, self.logits, self.tail)))


@dataclass(frozen=True)
class Sampled:
    """Draws from the teacher's distribution at the loss's temperature, for N positions: its unbiased estimate."""

    ids: Tensor
    """[N, m] int64, distinct within a row, padded with 0."""
    weights: Tensor
    """[N, m] float32: the share of the draws that fell on the id. Rows add up to 1; padding has 0."""

    def to(self, device: torch.device) -> Sampled:
        """The same on another device."""
        return Sampled(self.ids.to(device, non_blocking=True), self.weights.to(device, non_blocking=True))


def top_k_signal(logits: Tensor, k: int, temperatures: tuple[float, ...]) -> TopK:
    """Take the signal from logits [N, V]; the log-sum-exp is exact over the other tokens, not a difference of totals."""
    values, ids = logits.float().topk(min(k, logits.shape[1]), dim=1)
    peak = values[:, :1]
    others = (logits.float() - peak).scatter_(1, ids, -torch.inf)
    # logsumexp by hand: rows whose every entry is -inf (k = V) must give -inf, not NaN, and the maximum is known to be <= 0.
    tail = torch.stack([(others / tau).exp_().sum(dim=1).log() for tau in temperatures], dim=1) if temperatures \
        else logits.new_empty(len(logits), 0, dtype=torch.float32)
    return TopK(ids, (values - peak).to(torch.float16), tail)


def signal_arrays(signal: TopK, hidden: Tensor) -> dict[str, Array]:
    """The reply's arrays (link/messages.py). hidden: [P, D], sent as the bits of bfloat16."""
    bits = hidden.to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy().view(np.uint16)
    return {
        "topk_ids": signal.ids.to(torch.int32).cpu().numpy(),
        "topk_logits": signal.logits.cpu().numpy(),
        "tail": signal.tail.cpu().numpy(),
        "hidden": bits,
    }


def read_signal(arrays: dict[str, Array], vocab_size: int) -> tuple[TopK, Tensor]:
    """A reply's arrays -> the top-k signal and hidden states [P, D] bfloat16. Raises ValueError if an id is out of range."""
    ids = torch.from_numpy(np.array(arrays["topk_ids"])).long()
    if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < vocab_size):
        raise ValueError(f"token id {int(ids.max())} is outside the vocabulary of {vocab_size}")
    logits = torch.from_numpy(np.array(arrays["topk_logits"]))
    tail = torch.from_numpy(np.array(arrays["tail"]))
    hidden = torch.from_numpy(np.array(arrays["hidden"]).view(np.int16)).view(torch.bfloat16)
    return TopK(ids, logits, tail), hidden
