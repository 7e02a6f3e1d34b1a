"""Signal `sampled`: draws from the teacher's distribution, unbiased for forward KL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd_ds.signals.kind import LogProbs, SignalKind

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_ds.losses.distributions import Sampled
    from dskd_ds.losses.token import RowLoss, Scale
    from dskd_ds.models.head import FrozenHead
    from dskd_ds.signals.reply import ReplyParts


class SampledSignal(SignalKind["Sampled"]):
    """Sparse Logit Sampling (arXiv 2503.16870)."""

    main = "draw"

    def describe(self) -> str:
        """See SignalKind."""
        return f"{self.spec.num_draws} draws"

    def unpacked_bytes(self, hidden_size: int) -> int:
        """Ids become int64, shares float32."""
        return 12 * self.spec.num_draws

    def targets(self, reply: ReplyParts) -> Sampled:
        """See SignalKind."""
        return reply.draws.sampled()

    def divergence_(
        self,
        logits: Tensor,
        targets: Sampled,
        teacher_logits: Tensor | None,
        kd_scale: Scale,
        ce_scale: float,
    ) -> RowLoss:
        """See SignalKind."""
        from dskd_ds.losses.token import sampled_kl_

        return sampled_kl_(logits, targets, kd_scale, ce_scale)

    def log_probs_at(
        self, rows: Tensor, reply: ReplyParts, vocab_size: int, teacher_head: FrozenHead | None
    ) -> LogProbs:
        """See SignalKind."""
        from dskd_ds.signals.parts.draws import drawn_log_probs

        sampled = reply.draws.sampled().rows(rows)
        num_draws = int(reply.draws.counts.sum()) // len(reply.draws.lengths)
        return lambda tokens: drawn_log_probs(sampled, tokens, num_draws, vocab_size)


KIND = SampledSignal
