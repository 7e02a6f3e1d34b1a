"""Measures the student's cross-entropy on a fixed small part of the held-out text, while it trains.

All ranks run the same number of forward passes through DeepSpeed's engine, so weights stay
partitioned (docs/deepspeed.md, "Roles and worlds"). The teacher is not asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import deepspeed.comm as dist
import torch

from dskd_ds.data.batches import IGNORE, Batch, Sample, make_batch
from dskd_ds.data.block import Block
from dskd_ds.data.blocks import evenly_spread, heldout_blocks
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.observe.best_checkpoint import HeldoutScore
from dskd_ds.runtime.devices import local_device
from dskd_ds.spec import RunSpec
from dskd_ds.student.deepspeed_engine import Engine


class HeldoutLoss:
    """The held-out text of a run, and its loss under the present weights."""

    def __init__(self, spec: RunSpec, tokenizer: Any, rank: int, engine: Engine) -> None:
        """Read the text. Raises InputError if there is not one block."""
        self._engine = engine
        blocks = heldout_blocks(spec.data, tokenizer)
        chosen = evenly_spread(len(blocks), spec.monitor.heldout_tokens, spec.data.block_tokens)
        rows: list[Block] = [blocks[index] for index in chosen]
        self._batches = batches_of_rank(
            rows,
            num_rows=spec.train.micro_batch_blocks,
            rank=rank,
            num_ranks=spec.topology.num_students,
        )
        self._text = _digest(rows)

    def all_reduce_score(self) -> HeldoutScore:
        """Measure all ranks' text. A collective call; weights and moments stay as they are."""
        device = local_device()
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._engine.eval()
        try:
            with torch.no_grad():
                for batch in self._batches:
                    sums += self._sums(batch, device)
        finally:
            self._engine.train()
        dist.all_reduce(sums)
        total, count = sums.tolist()
        return HeldoutScore(loss=total / count, text=self._text)

    def _sums(self, batch: Batch, device: torch.device) -> torch.Tensor:
        """Return the sum of the cross-entropy over a batch, and its number of positions."""
        positions = batch.supervised
        targets = TeacherTargets(positions, batch.targets.flatten()[positions])
        total, count = self._engine(
            batch.input_ids.to(device), batch.position_ids.to(device), targets.to(device)
        )
        return torch.stack([total, count])


def batches_of_rank(
    rows: Sequence[Block], *, num_rows: int, rank: int, num_ranks: int
) -> list[Batch]:
    """Return a rank's share of the rows as batches of at most `num_rows`.

    Every rank gets equally many batches. One for which no row is left is the first row without
    targets: it counts nothing, but the rank makes the forward pass that the others make.
    """
    per_round = num_rows * num_ranks
    batches: list[Batch] = []
    for start in range(0, len(rows), per_round):
        first = start + rank * num_rows
        own = range(first, min(first + num_rows, len(rows)))
        if own:
            samples = [Sample(0, index) for index in own]
            batches.append(make_batch([rows[index] for index in own], samples))
        else:
            batches.append(_without_targets(rows[0]))
    return batches


def _without_targets(row: Block) -> Batch:
    batch = make_batch([row], [Sample(0, 0)])
    batch.targets.fill_(IGNORE)
    return batch


def _digest(rows: Sequence[Block]) -> str:
    """Return a digest of the rows' tokens and of which of them are targets."""
    digest = hashlib.sha256()
    for row in rows:
        batch = make_batch([row], [Sample(0, 0)])
        digest.update(batch.input_ids.numpy().tobytes())
        digest.update(batch.targets.numpy().tobytes())
    return digest.hexdigest()[:16]
