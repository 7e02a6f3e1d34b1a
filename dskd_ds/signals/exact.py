"""Signal `exact`: hidden states, from which students rebuild the teacher's full logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dskd_ds.signals.kind import LogProbs, SignalKind

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dskd_ds.losses.token import RowLoss, Scale
    from dskd_ds.models.head import FrozenHead
    from dskd_ds.signals.reply import ReplyParts


@dataclass(frozen=True)
class TeacherStates:
    """The teacher's last hidden states at N positions."""

    hidden: Tensor
    """[N, D_teacher]"""

    def rows(self, index: Tensor | slice) -> TeacherStates:
        """The states at some of the positions."""
        return TeacherStates(self.hidden[index])

    def to(self, device: torch.device) -> TeacherStates:
        """The same on another device."""
        return TeacherStates(self.hidden.to(device, non_blocking=True))


class ExactSignal(SignalKind[TeacherStates]):
    """The divergence over the whole vocabulary, through a frozen copy of the teacher's head."""

    main = "hidden"
    needs_teacher_head = True

    def describe(self) -> str:
        """See SignalKind."""
        return "hidden states at every position"

    def unpacked_bytes(self, hidden_size: int) -> int:
        """States in bfloat16."""
        return 2 * hidden_size

    def targets(self, reply: ReplyParts) -> TeacherStates:
        """See SignalKind."""
        return TeacherStates(reply.hidden)

    def teacher_states(self, targets: TeacherStates) -> Tensor:
        """See SignalKind."""
        return targets.hidden

    def divergence_(
        self,
        logits: Tensor,
        targets: TeacherStates,
        teacher_logits: Tensor | None,
        kd_scale: Scale,
        ce_scale: float,
    ) -> RowLoss:
        """See SignalKind."""
        from dskd_ds.losses.token import full_divergence_

        assert teacher_logits is not None
        # A rule of the spec: weights by teacher need [[teachers]], whose heads students lack.
        assert isinstance(kd_scale, float)
        at_tau = teacher_logits.div_(self.spec.temperature)
        return full_divergence_(logits, at_tau, self.spec.divergence, kd_scale, ce_scale)

    def agreement(
        self,
        targets: TeacherStates,
        teacher_logits: Tensor | None,
        rows: slice,
    ) -> tuple[Tensor, list[Tensor]]:
        """See SignalKind."""
        from dskd_ds.losses.token import masses

        assert teacher_logits is not None
        logits = teacher_logits[rows]
        values, ids = logits.topk(min(self.spec.top_k, logits.shape[1]), dim=1)
        return ids, masses(values, logits, (self.spec.temperature, 1.0))

    def log_probs_at(
        self, rows: Tensor, reply: ReplyParts, vocab_size: int, teacher_head: FrozenHead | None
    ) -> LogProbs:
        """See SignalKind."""
        import torch

        assert teacher_head is not None
        states = reply.hidden[rows].to(teacher_head.weight)
        logits = teacher_head.form.apply_(states @ teacher_head.weight.T)
        dense = torch.log_softmax(logits.float(), dim=1).cpu()
        return lambda tokens: dense.gather(1, tokens[:, None]).squeeze(1)


KIND = ExactSignal
