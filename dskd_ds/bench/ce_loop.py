"""This project's training loop with cross-entropy only, to measure what the loop itself costs.

Steps, metrics and communication between ranks are those of a distillation run:

    deepspeed --num_gpus 1 --module dskd_ds.bench.ce_loop --spec FILE.toml [--set KEY=VALUE ...]

It is compared with bench/bare_loop.py, whose model, loss, blocks and DeepSpeed configuration are
the same.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dskd_ds.bench.bare_loop import load_model
from dskd_ds.data.batches import BlockSource, places, read_batch
from dskd_ds.data.source import num_steps, open_source
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.named import NamedModel
from dskd_ds.objective.fused import STATS, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.runtime.arguments import add_overrides
from dskd_ds.runtime.console import quiet_libraries, quiet_progress
from dskd_ds.runtime.devices import use_threads
from dskd_ds.runtime.launchers import read_launch
from dskd_ds.runtime.topology import assign
from dskd_ds.runtime.world import open_world
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.counts import Counts
from dskd_ds.student.ds_config import deepspeed_config
from dskd_ds.student.loop import run_steps
from dskd_ds.student.on_policy import OnPolicyBlocks
from dskd_ds.student.replies.feed import MicroBatch, StepInput
from dskd_ds.student.skips import Skips
from dskd_ds.student.training import Training


class CrossEntropyStudent(nn.Module):
    """A language model with the interface of the student in student/model.py, but no teacher."""

    def __init__(self, language_model: Any) -> None:
        super().__init__()
        self.language_model = language_model
        self.stat_names = STATS

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        teacher: TeacherTargets,
        senses: SenseTargets,
        scales: Scales,
    ) -> tuple[Tensor, Tensor]:
        """Return the scaled cross-entropy, computed as in bare_loop.py, and the sums of STATS.

        All sums except that of the cross-entropy are 0.
        """
        assert not len(senses.positions)
        logits = self.language_model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False
        ).logits
        targets = torch.full_like(input_ids, -100).flatten()
        targets[teacher.positions] = teacher.targets
        # As in the objective, the sum is scaled by one over the positions of all ranks.
        total = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum")
        stats = torch.zeros(len(STATS), dtype=torch.float64, device=total.device)
        stats[STATS.index("ce")] = total.detach()
        return total * scales.token, stats

    def loss_record(self, total: dict[str, float], counts: Counts) -> dict[str, float]:
        """Return the cross-entropy as the only loss of the record."""
        loss = total["ce"] / max(counts.tokens, 1)
        return {"loss": loss, "loss_ce": loss, "loss_kd": 0.0, "loss_sense": 0.0}

    def all_reduce_gradient_measures(self) -> None:
        """Do nothing: this module measures no gradients."""


class TextFeed:
    """Provides micro-batches as the Feed of student/replies/feed.py does, but without a teacher."""

    def __init__(self, spec: RunSpec, rank: int, source: BlockSource, hidden_size: int) -> None:
        self._spec, self._rank, self._source = spec, rank, source
        self._hidden_size = hidden_size
        self._step = 0
        # One step is planned ahead: the loop asks for the counts of a step before its batches.
        self._planned = self._plan(step=0)

    def fingerprints(self) -> list[str | None]:
        """See StepSource: there is no teacher."""
        return []

    def counts(self) -> tuple[int, int]:
        """Return the numbers of supervised and of sense positions (0) of the next step."""
        return sum(len(batch.teacher.positions) for batch in self._planned), 0

    def next(self, is_stop_wanted: Callable[[], bool]) -> StepInput:
        """Return the next step's micro-batches."""
        del is_stop_wanted  # there is nothing to wait for
        planned = self._planned
        self._step += 1
        self._planned = self._plan(self._step)
        return StepInput(
            micro_batches=planned,
            teacher_wait_seconds=0.0,
            sense_wait_seconds=0.0,
            link_bytes=0,
        )

    def _plan(self, step: int) -> list[MicroBatch]:
        """Read the micro-batches of one step."""
        batches = [
            read_batch(self._source, places(self._spec, step, micro, self._rank))
            for micro in range(self._spec.num_accumulation_steps)
        ]
        return [
            MicroBatch(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                teacher=TeacherTargets(batch.supervised, batch.targets.flatten()[batch.supervised]),
                senses=SenseTargets.empty(self._hidden_size),
            )
            for batch in batches
        ]


def main() -> None:
    """Parse the arguments and train for [train] num_steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", required=True)
    add_overrides(parser)
    parser.add_argument("--local_rank", type=int)
    args = parser.parse_args()
    quiet_libraries()
    quiet_progress()
    spec = load_spec(args.spec, args.set)
    role = assign(read_launch(os.environ), spec.topology)
    use_threads(spec.topology.threads_per_rank)
    open_world()
    model = CrossEntropyStudent(load_model(spec, use_deepspeed=True))
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=list(model.parameters()), config=deepspeed_config(spec)
    )
    teacher = NamedModel.of_teacher(spec.teacher)
    source = open_source(
        spec.data,
        teacher.tokenizer,
        seed=spec.seed,
        step_blocks=spec.train.global_batch_blocks,
    )
    text_config = model.language_model.config.get_text_config()
    feed: Any = TextFeed(spec, role.rank, source, hidden_size=text_config.hidden_size)
    # The loop takes the on-policy metrics from it; the feed reads the source directly.
    blocks = OnPolicyBlocks(
        spec, tokenizer=teacher.tokenizer, rank=role.rank, source=source, engine=engine
    )
    training = Training(
        spec,
        role.rank,
        engine,
        feed,
        blocks,
        num_done=0,
        num_steps=num_steps(spec, source),
        tokens=0,
        skips=Skips(spec.train),
    )
    run_steps(training)


if __name__ == "__main__":
    main()
