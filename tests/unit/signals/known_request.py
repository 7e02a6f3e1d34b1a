"""A request whose right answer is known: text that the fixture `teacher` predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dskd_ds.link.messages import Wanted
from dskd_ds.signals.kind import Part, signal_kind
from dskd_ds.signals.reply import ReplyShape
from dskd_ds.spec.loss import LossSpec
from tests.unit.conftest import D, T, V

WANTED = Wanted(
    top_k=4,
    temperatures=(1.0,),
    num_draws=20,
    draw_temperature=1.0,
    draw_seed=3,
    hidden_format="bfloat16",
)


@dataclass(frozen=True)
class KnownRequest:
    """A request for one block."""

    arrays: dict[str, np.ndarray]
    targets: torch.Tensor
    """[1, T]"""
    positions: dict[Part, np.ndarray]
    """The positions of each part of the reply."""

    @property
    def reply_shape(self) -> ReplyShape:
        """The shape of the right reply."""
        num_rows = {name: len(rows) for name, rows in self.positions.items()}
        return ReplyShape(V, D, num_rows["top_k"], num_rows["draw"], num_rows["hidden"])


def known_request(kind: str) -> KnownRequest:
    """Text that `NextToken` predicts, with the positions that a student of signal `kind` wants."""
    ids = [3]
    while len(ids) < T:
        ids.append((7 * ids[-1] + 1) % V)
    positions = signal_kind(LossSpec(signal=kind)).positions(np.arange(T - 1), np.arange(2, T - 3))
    arrays = {
        "input_ids": np.array([ids], np.int32),
        "position_ids": np.arange(T, dtype=np.int32)[None],
        **{f"{name}_positions": rows.astype(np.int32) for name, rows in positions.items()},
        "layer_positions": np.zeros(0, np.int32),
    }
    return KnownRequest(arrays, torch.tensor([[*ids[1:], -100]]), positions)
