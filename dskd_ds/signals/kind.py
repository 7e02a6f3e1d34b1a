"""Defines what a kind of teacher signal is, and finds the kind that [loss] signal names.

A kind says which part of a reply it needs at every supervised position, what that part costs, which
targets the loss gets from it, and which loss that is. Its module has the name that the spec uses
and defines `KIND`. Importing a kind loads no torch, because the plan asks it for bytes.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dskd_ds.spec.loss import LossSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dskd_ds.losses.token import RowLoss, Scale
    from dskd_ds.models.head import FrozenHead
    from dskd_ds.signals.reply import ReplyParts

Ints = NDArray[np.int64]
LogProbs = Callable[["Tensor"], "Tensor"]
"""One token per row [R] -> its log-probability there [R]."""
Part = Literal["top_k", "draw", "hidden"]
"""Parts of a reply that a request names positions for."""
PARTS: tuple[Part, ...] = ("top_k", "draw", "hidden")
SENSE_PARTS: tuple[Part, ...] = ("hidden", "top_k")
"""What choosing senses on the student needs at the sense positions."""


class Targets(Protocol):
    """What the loss learns from at N positions; each kind has its own class."""

    def rows(self, index: Tensor | slice) -> Self:
        """The targets at some of the positions."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        ...


T = TypeVar("T", bound=Targets | None)
"""The class of a kind's targets; None for a kind without a divergence."""


class SignalKind(ABC, Generic[T]):
    """One kind of teacher signal under the settings of one run."""

    main: ClassVar[Part | None]
    """The part asked for at every supervised position; None: no divergence is computed."""
    needs_teacher_head: ClassVar[bool] = False
    """Whether students keep a frozen copy of the teacher's head."""

    def __init__(self, spec: LossSpec) -> None:
        self.spec = spec

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures of the top-k part's tails; the last is 1, because senses need it."""
        return (1.0,)

    def positions(self, supervised: Ints, sense: Ints) -> dict[Part, Ints]:
        """Positions to ask for, by part.

        supervised: [N], those with a target. sense: [P], those where the student chooses senses.
        """
        chosen = {"supervised": supervised, "sense": sense, "nowhere": supervised[:0]}
        return {part: chosen[self.asked_at(part)] for part in PARTS}

    def share(self, part: Part, sense_share: float) -> float:
        """Return the share of positions that a part is asked for at, 0..1.

        All positions count as supervised. sense_share: share of those where the student chooses.
        """
        return {"supervised": 1.0, "sense": sense_share, "nowhere": 0.0}[self.asked_at(part)]

    def asked_at(self, part: Part) -> Literal["supervised", "sense", "nowhere"]:
        """Where a part of the reply is asked for."""
        if part == self.main:
            return "supervised"
        return "sense" if part in SENSE_PARTS else "nowhere"

    @abstractmethod
    def describe(self) -> str:
        """What the teacher sends at supervised positions, in a few words for the user."""

    @abstractmethod
    def unpacked_bytes(self, hidden_size: int) -> int:
        """Bytes per position that the targets take in memory, beyond the reply's own."""

    @abstractmethod
    def targets(self, reply: ReplyParts) -> T:
        """Return what the loss learns from, at the supervised positions in their order."""

    def teacher_states(self, targets: T) -> Tensor | None:
        """States [N, D_teacher] that the teacher's logits are rebuilt from; None: they are not."""
        return None

    @abstractmethod
    def divergence_(
        self,
        logits: Tensor,
        targets: T,
        teacher_logits: Tensor | None,
        kd_scale: Scale,
        ce_scale: float,
    ) -> RowLoss:
        """Compute the divergence at C positions and its gradient (losses/token.py).

        logits: [C, V] of the student at the loss's temperature, overwritten. teacher_logits: [C,
        Vt] at temperature 1, overwritten; None unless `teacher_states` gave states. kd_scale: with
        several teachers one factor per row, [C, 1].
        """

    def agreement(
        self,
        targets: T,
        teacher_logits: Tensor | None,
        rows: slice,
    ) -> tuple[Tensor, list[Tensor]] | None:
        """Return the teacher's top-k ids [R, k] and its mass on them [R] at tau and at 1.

        rows: which positions. None: this kind knows no top k.
        """
        return None

    @property
    def tested_part(self) -> Part:
        """The part that the alignment self-test scores: the main one, else the top k."""
        return self.main or "top_k"

    def log_probs_at(
        self, rows: Tensor, reply: ReplyParts, vocab_size: int, teacher_head: FrozenHead | None
    ) -> LogProbs:
        """Return a function from one token per row to its log-probability at temperature 1.

        rows: [R] indices into `tested_part`. teacher_head: given if `needs_teacher_head`.
        """
        from dskd_ds.signals.parts.top_k import top_k_log_probs

        top_k = reply.top_k.rows(rows)
        return lambda tokens: top_k_log_probs(top_k, tokens, vocab_size)


def signal_kind(spec: LossSpec) -> SignalKind[Any]:
    """Return the kind that [loss] signal names: `KIND` of the module with that name."""
    module = importlib.import_module(f"dskd_ds.signals.{spec.signal}")
    kind: type[SignalKind[Any]] = module.KIND
    return kind(spec)
