"""The DeepSpeed engine around the student, and one optimiser step with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.objective.fused import Scales
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import RunSpec
from dskd_ds.student.counts import Counts
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.dropout import seed_dropout
from dskd_ds.student.ds_config import deepspeed_config
from dskd_ds.student.model import load_student
from dskd_ds.student.replies.feed import StepInput
from dskd_ds.student.skips import StepFacts
from dskd_ds.student.update import all_reduce_losses, poison_if_bad, update_or_skip


def make_engine(
    spec: RunSpec, models: RunModels, init: NamedModel, dictionary: SenseDictionary | None
) -> Engine:
    """Load the student from `init` and give it to DeepSpeed, with its objective.

    dictionary: the run's senses, whose median antonym distance may be the margin's unit.
    """
    config = deepspeed_config(spec)
    margin = spec.loss.margin
    if spec.loss.margin_unit == "median_antonym" and dictionary is not None:
        distance = dictionary.facts["median_antonym_distance"]
        assert distance is not None  # preflight refuses this unit without antonyms
        margin *= distance
    student = load_student(spec, models, init, config, margin)
    return open_engine(student, config)


def open_engine(module: nn.Module, config: dict[str, Any]) -> Engine:
    """Give a module to DeepSpeed, which trains those of its weights that require a gradient.

    config: the complete DeepSpeed configuration. The module must fit `TrainedModule`.
    """
    module.train()
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    engine: Engine
    engine, *_ = deepspeed.initialize(model=module, model_parameters=trainable, config=config)
    return engine


@dataclass(frozen=True)
class StepResult:
    """What one step of this rank gave."""

    sums: Tensor
    """This rank's sums, in the order of the module's `stat_names`."""
    facts: StepFacts
    """Whether the weights were updated, and why not; the same on all ranks."""


def ignore_phase(phase: str) -> None:
    """Do nothing: for callers that do not watch a step's phases."""
    del phase


def take_step(
    spec: RunSpec,
    engine: Engine,
    step_input: StepInput,
    counts: Counts,
    *,
    loss_limit: float = math.inf,
    share_done: float = 0.0,
    enter_phase: Callable[[str], None] = ignore_phase,
) -> StepResult:
    """Run forward, backward and update for one step of this rank. A collective call.

    All ranks skip the update if the loss of any of them is not finite, if the step's loss exceeds
    `loss_limit`, or if the gradients are not finite. counts: over all ranks. share_done: share of
    the run before this step. enter_phase: is told what begins now.
    """
    # The loss is a sum divided by a global count, but DeepSpeed divides by accumulation steps and
    # averages over ranks: the factor undoes that. In fp16 DeepSpeed also multiplies the loss. The
    # objective forms its gradients in forward, so they must contain that factor already, and
    # `backward` must not bring it in again.
    num_ranks = spec.topology.num_students
    loss_scale = float(getattr(engine.optimizer, "loss_scale", 1.0))
    factor = spec.num_accumulation_steps * num_ranks * loss_scale
    scales = Scales(
        token=factor / max(counts.tokens, 1),
        sense=factor / max(counts.senses, 1),
        share_done=share_done,
    )
    sums = torch.zeros(len(engine.module.stat_names), dtype=torch.float64, device=engine.device)
    own_loss, losses = sums.new_zeros(()), sums.new_zeros(num_ranks)
    for batch in step_input.micro_batches:
        enter_phase("forward")
        seed_dropout(spec.seed, batch.place)
        loss, stats = engine(
            batch.input_ids, batch.position_ids, batch.teacher, batch.senses, scales
        )
        sums += stats
        own_loss += loss.detach() / factor
        is_last = engine.is_gradient_accumulation_boundary()
        if is_last:
            enter_phase("loss check")
            losses = all_reduce_losses(own_loss, engine.global_rank, num_ranks)
            loss = poison_if_bad(loss, losses, loss_limit)
        enter_phase("backward")
        engine.backward(loss / loss_scale)
        if not is_last:
            engine.step()  # counts the micro-batch
    engine.module.all_reduce_gradient_measures()
    enter_phase("optimiser step")
    return StepResult(sums, update_or_skip(engine, losses, loss_limit))


def set_lr(engine: Engine, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
