"""Signal `topk`: the teacher's k likeliest tokens, and one bucket for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd_ds.signals.kind import SignalKind

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_ds.losses.distributions import TopK
    from dskd_ds.losses.token import RowLoss, Scale
    from dskd_ds.signals.reply import ReplyParts


class TopKSignal(SignalKind["TopK"]):
    """A true divergence over k + 1 outcomes (docs/method.md, "Top-k KL")."""

    main = "top_k"

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The tail at the loss's temperature, then at 1."""
        tau = self.spec.temperature
        return (1.0,) if tau == 1.0 else (tau, 1.0)

    def describe(self) -> str:
        """See SignalKind."""
        return f"top-{self.spec.top_k}"

    def unpacked_bytes(self, hidden_size: int) -> int:
        """Ids become int64."""
        return 8 * self.spec.top_k

    def targets(self, reply: ReplyParts) -> TopK:
        """See SignalKind."""
        return reply.top_k

    def divergence_(
        self,
        logits: Tensor,
        targets: TopK,
        teacher_logits: Tensor | None,
        kd_scale: Scale,
        ce_scale: float,
    ) -> RowLoss:
        """See SignalKind."""
        from dskd_ds.losses.token import tail_divergence_

        log_p, log_p_rest = targets.log_probs(self.spec.temperature, 0)
        return tail_divergence_(
            logits, targets.ids, log_p, log_p_rest, self.spec.divergence, kd_scale, ce_scale
        )

    def agreement(
        self,
        targets: TopK,
        teacher_logits: Tensor | None,
        rows: slice,
    ) -> tuple[Tensor, list[Tensor]]:
        """See SignalKind."""
        top_k = targets.rows(rows)
        columns = {self.spec.temperature: 0, 1.0: top_k.tail.shape[1] - 1}
        masses = [
            top_k.log_probs(tau, columns[tau])[0].exp().sum(dim=1)
            for tau in (self.spec.temperature, 1.0)
        ]
        return top_k.ids, masses


KIND = TopKSignal
