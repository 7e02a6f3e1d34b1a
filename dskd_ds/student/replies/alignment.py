"""Start-up self-test: do the replies to the first batch belong to the positions that were asked
for?

A reply that is shifted by one position trains without an error, towards the wrong token. A language
model predicts the next token far better than the tokens beside it. So the targets' mean
log-probability is compared at the right position and one position to either side.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.batches import IGNORE
from dskd_ds.errors import LinkError
from dskd_ds.models.head import FrozenHead
from dskd_ds.signals.kind import SignalKind
from dskd_ds.signals.reply import ReplyParts
from dskd_ds.student.on_policy import is_on_policy
from dskd_ds.student.replies.requests import RequestBuilder, TeacherRequest

MAX_POSITIONS = 256
MIN_POSITIONS = 16
"""With fewer positions the test is left out."""
CLEARLY_NATS = 0.5
"""How much better another position must be to count as a shift."""
KNOWLEDGE_NATS = 1.0
"""How much better than 1 / V a teacher must be, somewhere, to be more than noise: a random model
can prefer the token that it has just read."""


@dataclass(frozen=True)
class Alignment:
    """Mean log-probability of the targets, in nats."""

    before: float
    """Of the targets one position before those that a reply is for."""
    right: float
    """Of the targets that a reply is for."""
    after: float
    """Of the targets one position after them."""
    num_positions: int
    vocab_size: int

    @property
    def is_conclusive(self) -> bool:
        """Whether the teacher knows enough at enough positions."""
        best = max(self.before, self.right, self.after)
        is_more_than_noise = best > KNOWLEDGE_NATS - math.log(self.vocab_size)
        return self.num_positions >= MIN_POSITIONS and is_more_than_noise

    def line(self) -> str:
        """The result in one line for the user."""
        if self.num_positions < MIN_POSITIONS:
            return (
                "alignment self-test: left out, the first batch has only"
                f" {self.num_positions} positions for it"
            )
        verdict = ""
        if not self.is_conclusive:
            verdict = f"; little better than 1 in {self.vocab_size}, so the test is not conclusive"
        return (
            f"alignment self-test: targets' log-probability {self.right:.1f} nats at the right"
            f" position, {self.before:.1f} and {self.after:.1f} one off"
            f" ({self.num_positions} positions{verdict})"
        )

    def check(self, teacher: str) -> None:
        """Raise LinkError if another position is clearly better."""
        best, where = max((self.before, "earlier"), (self.after, "later"))
        if self.is_conclusive and best - self.right > CLEARLY_NATS:
            raise LinkError(
                f"teacher {teacher}: its replies are shifted by one position: the targets'"
                f" log-probability is {self.right:.1f} nats at the right position, but"
                f" {best:.1f} one position {where}.\n"
                "  run the same version of dskd-ds on both sides, and check that [teacher] model"
                " has the tokenizer it was trained with."
            )


class AlignmentTest:
    """Runs the self-test once, on the first batch whose text the student did not write.

    The text of an untrained student is noise, for which a teacher may know the wrong position
    better. If the student writes every batch, the result is printed and not judged.
    """

    def __init__(
        self,
        requests: RequestBuilder,
        teacher_head: FrozenHead | None,
        on_policy_fraction: float,
        is_printing: bool,
        teacher_name: str | None = None,
    ) -> None:
        """teacher_head: for kinds that need it. is_printing: whether this rank prints.

        teacher_name: printed with the result, if the run has several teachers.
        """
        self._requests, self._teacher_head = requests, teacher_head
        self._on_policy_fraction, self._is_printing = on_policy_fraction, is_printing
        self._of_teacher = f"teacher {teacher_name}: " if teacher_name else ""
        self._is_done = False

    def run_once(self, step: int, request: TeacherRequest, reply: ReplyParts, teacher: str) -> None:
        """Test a reply, unless that was done. Raises LinkError if it belongs to other positions."""
        if self._is_done:
            return
        student_wrote = is_on_policy(self._on_policy_fraction, step)
        if student_wrote and self._on_policy_fraction < 1.0:
            return  # a later step has other text
        self._is_done = True
        kind = self._requests.kind
        found = measure_alignment(
            kind,
            targets=request.batch.targets,
            positions=torch.from_numpy(request.positions[kind.tested_part]),
            reply=reply,
            vocab_size=self._requests.vocab_size,
            teacher_head=self._teacher_head,
        )
        if self._is_printing:
            remark = "; not judged, because the student wrote this text" if student_wrote else ""
            tqdm.write(self._of_teacher + found.line() + remark, file=sys.stderr)
        if not student_wrote:
            found.check(teacher)


@torch.inference_mode()
def measure_alignment(
    kind: SignalKind[Any],
    *,
    targets: Tensor,
    positions: Tensor,
    reply: ReplyParts,
    vocab_size: int,
    teacher_head: FrozenHead | None,
) -> Alignment:
    """Score a batch's targets by the part of the reply that the kind's self-test reads.

    targets: [B, T]. positions: [N], where `kind.tested_part` was asked for.
    """
    targets = targets.flatten()
    rows = _rows_with_neighbours(targets, positions)[:MAX_POSITIONS]
    if len(rows) < MIN_POSITIONS:
        return Alignment(0.0, 0.0, 0.0, len(rows), vocab_size)
    log_probs = kind.log_probs_at(rows, reply, vocab_size, teacher_head)
    # One reply, three sets of targets: the set it predicts best shows where the reply belongs.
    before, right, after = (
        float(log_probs(targets[positions[rows] + offset]).mean()) for offset in (-1, 0, 1)
    )
    return Alignment(before, right, after, len(rows), vocab_size)


def _rows_with_neighbours(targets: Tensor, positions: Tensor) -> Tensor:
    """Rows of `positions` at which the targets of this and both neighbouring positions are
    supervised.

    A block's last target is IGNORE, so three supervised targets in a row lie in one block.
    """
    supervised = torch.nn.functional.pad(targets != IGNORE, (1, 1))
    has_neighbours = supervised[positions] & supervised[positions + 1] & supervised[positions + 2]
    return has_neighbours.nonzero().squeeze(1)
