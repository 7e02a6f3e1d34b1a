"""Signal `hidden`: no divergence; hidden states and top k serve the sense term alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd_ds.signals.kind import SignalKind

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_ds.losses.token import RowLoss, Scale
    from dskd_ds.signals.reply import ReplyParts


class HiddenSignal(SignalKind[None]):
    """No divergence: cross-entropy and the sense term only."""

    main = None

    def describe(self) -> str:
        """See SignalKind."""
        return "no logits"

    def unpacked_bytes(self, hidden_size: int) -> int:
        """Nothing is kept for the loss."""
        return 0

    def targets(self, reply: ReplyParts) -> None:
        """Nothing for the loss to learn from."""

    def divergence_(
        self,
        logits: Tensor,
        targets: None,
        teacher_logits: Tensor | None,
        kd_scale: Scale,
        ce_scale: float,
    ) -> RowLoss:
        """Cross-entropy's softmax without any divergence."""
        from dskd_ds.losses.token import own_softmax_

        return own_softmax_(logits, ce_scale)


KIND = HiddenSignal
