"""Start-up self-test: does the teacher's word on the first batch belong to the positions it was asked for?

A reply that is off by one position trains without an error, towards the wrong token. A language model knows the token that comes next
far better than the ones beside it, so the targets' mean log-probability is compared at the right position and one to either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.data.batches import IGNORE
from dskd_ds.errors import LinkError
from dskd_ds.losses.distributions import Sampled, TopK
from dskd_ds.models.head import FrozenHead
from dskd_ds.signals.reply import Signal
from dskd_ds.spec.loss import SignalKind

LogProbs = Callable[[Tensor], Tensor]

MAX_POSITIONS = 256
MIN_POSITIONS = 16
"""Fewer say nothing."""
CLEARLY_NATS = 0.5
"""How much better another position must be to count."""
KNOWLEDGE_NATS = 1.0
"""How much better than 1 / V a teacher must be, somewhere, to be more than noise: a random model can prefer the token it has just read."""


@dataclass(frozen=True)
class Alignment:
    """Mean log-probability of the targets."""

    before: float
    """Of the target one position earlier."""
    right: float
    after: float
    num_positions: int
    vocab_size: int

    @property
    def can_tell(self) -> bool:
        """Whether the teacher knows enough of enough positions."""
        best = max(self.before, self.right, self.after)
        return self.num_positions >= MIN_POSITIONS and best > KNOWLEDGE_NATS - math.log(
            self.vocab_size
        )

    def line(self) -> str:
        """For the user, in one line."""
        if self.num_positions < MIN_POSITIONS:
            return f"alignment self-test: left out, the first batch has only {self.num_positions} positions for it"
        verdict = (
            ""
            if self.can_tell
            else f"; hardly more than one in {self.vocab_size}, so this teacher cannot tell"
        )
        return (
            f"alignment self-test: targets' log-probability {self.right:.1f} nats at the right position, {self.before:.1f} and "
            f"{self.after:.1f} one off ({self.num_positions} positions{verdict})"
        )

    def check(self, teacher: str) -> None:
        """Raises LinkError if another position is clearly better."""
        best, where = max((self.before, "earlier"), (self.after, "later"))
        if self.can_tell and best - self.right > CLEARLY_NATS:
            raise LinkError(
                f"teacher {teacher}: its word is off by one position: the targets' log-probability is {self.right:.1f} nats where it should"
                f" be best, but {best:.1f} one position {where}.\n"
                "  run the same version of dskd-ds on both sides, and check that [teacher] model has the tokenizer it was trained with."
            )


@torch.inference_mode()
def measure_alignment(
    targets: Tensor,
    at: dict[str, NDArray[np.int64]],
    signal: Signal,
    kind: SignalKind,
    vocab_size: int,
    teacher_head: FrozenHead | None,
) -> Alignment:
    """Score a batch's targets by the part of the reply that the KL is computed from (for `hidden`: by the top k at sense positions).

    targets: [B, T]. at: positions that were asked for, by part. teacher_head: needed for `exact`.
    """
    flat = targets.flatten()
    part = {"topk": "top_k", "exact": "hidden", "sampled": "draw", "hidden": "top_k"}[kind]
    positions = torch.from_numpy(at[part])
    # A block's last target is IGNORE, so three supervised targets in a row lie in one block.
    supervised = torch.nn.functional.pad(flat != IGNORE, (1, 1))
    rows = (
        (supervised[positions] & supervised[positions + 1] & supervised[positions + 2])
        .nonzero()
        .squeeze(1)[:MAX_POSITIONS]
    )
    if len(rows) < MIN_POSITIONS:
        return Alignment(0.0, 0.0, 0.0, len(rows), vocab_size)
    log_probs = _log_probs_of(rows, signal, kind, vocab_size, teacher_head)
    before, right, after = (
        float(log_probs(flat[positions[rows] + offset]).mean()) for offset in (-1, 0, 1)
    )
    return Alignment(before, right, after, len(rows), vocab_size)


def _log_probs_of(
    rows: Tensor, signal: Signal, kind: SignalKind, vocab_size: int, teacher_head: FrozenHead | None
) -> LogProbs:
    """The function from one token for each row to its log-probability there."""
    if kind == "exact":
        assert teacher_head is not None
        logits = teacher_head.form.apply_(
            signal.hidden[rows].to(teacher_head.weight) @ teacher_head.weight.T
        )
        dense = torch.log_softmax(logits.float(), dim=1).cpu()
        return lambda tokens: dense.gather(1, tokens[:, None]).squeeze(1)
    if kind == "sampled":
        sampled = signal.draws.sampled()
        some, num_draws = (
            sampled.rows(rows),
            int(signal.draws.counts.sum()) // len(signal.draws.lengths),
        )
        return lambda tokens: drawn_log_probs(some, tokens, num_draws, vocab_size)
    top_k = signal.top_k.rows(rows)
    return lambda tokens: top_k_log_probs(top_k, tokens, vocab_size)


def top_k_log_probs(top_k: TopK, tokens: Tensor, vocab_size: int) -> Tensor:
    """[R] log-probability at temperature 1 (the tail's last column) of one token a row; the bucket is shared evenly by its tokens."""
    inside, tail = top_k.log_probs(1.0, -1)
    match = top_k.ids == tokens[:, None]
    outside = tail - math.log(max(vocab_size - top_k.ids.shape[1], 1))
    return torch.where(
        match.any(dim=1), torch.where(match, inside, -torch.inf).amax(dim=1), outside
    )


def drawn_log_probs(sampled: Sampled, tokens: Tensor, num_draws: int, vocab_size: int) -> Tensor:
    """[R] log-probability of one token a row, from its share of the draws and one more draw that is spread over all tokens."""
    share = (sampled.weights * (sampled.ids == tokens[:, None])).sum(dim=1)
    return torch.log((num_draws * share + 1 / vocab_size) / (num_draws + 1))
