"""Turns micro-batches into requests for the teacher's states at several layers, for the repair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dskd_ds.data.batches import Batch
from dskd_ds.link.messages import Wanted
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.kind import PARTS
from dskd_ds.signals.reply import ReplyParts, ReplyShape
from dskd_ds.spec.processes import HiddenFormat
from dskd_ds.student.replies.requests import StepRequests, TeacherRequest, selection_arrays


class RepairRequests(StepRequests):
    """Asks for states of some layers at all positions, because a layer attends to all of them."""

    def __init__(
        self, layers: Sequence[int], hidden_format: HiddenFormat, vocab_size: int, hidden_size: int
    ) -> None:
        """layers: the teacher's, ascending. vocab_size, hidden_size: the teacher's."""
        self._vocab_size, self._hidden_size = vocab_size, hidden_size
        # No position gets a top k or draws; the message needs valid values all the same.
        self.wanted = Wanted(
            top_k=1,
            temperatures=(1.0,),
            num_draws=1,
            draw_temperature=1.0,
            draw_seed=0,
            hidden_format=hidden_format,
            layers=tuple(layers),
        )

    def request(self, batch: Batch) -> TeacherRequest:
        """Return the request for a batch."""
        nowhere = np.zeros(0, np.int32)
        everywhere = np.arange(batch.input_ids.numel(), dtype=np.int32)
        return TeacherRequest(
            batch=batch,
            selection=None,
            positions={part: nowhere.astype(np.int64) for part in PARTS},
            arrays={
                "input_ids": batch.input_ids.numpy().astype(np.int32),
                "position_ids": batch.position_ids.numpy().astype(np.int32),
                **{f"{part}_positions": nowhere for part in PARTS},
                "layer_positions": everywhere,
                **selection_arrays(None),
            },
            wanted=self.wanted,
        )

    def shape(self, request: TeacherRequest) -> ReplyShape:
        """Return what the reply to a request must have."""
        num_positions = request.batch.input_ids.numel()
        return ReplyShape(self._vocab_size, self._hidden_size, 0, 0, 0, num_at_layers=num_positions)

    def targets(
        self, request: TeacherRequest, reply: ReplyParts
    ) -> tuple[TeacherTargets, SenseTargets]:
        """Return the states that the repair learns from, on the CPU."""
        supervised = request.batch.supervised
        teacher = TeacherTargets(
            positions=supervised,
            targets=torch.zeros(0, dtype=torch.int64),
            layers=reply.layers,
        )
        return teacher, SenseTargets.empty(self._hidden_size)
