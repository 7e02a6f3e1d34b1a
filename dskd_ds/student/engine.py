"""The DeepSpeed engine around the student, and one optimiser step with it."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from torch import Tensor

from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.objective.fused import STATS, Scales
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import RunSpec
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.dropout import seed_dropout
from dskd_ds.student.ds_config import deepspeed_config
from dskd_ds.student.feed import StepInput
from dskd_ds.student.model import load_student
from dskd_ds.student.verdict import Counts


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
    student.train()
    trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
    engine: Engine
    engine, *_ = deepspeed.initialize(model=student, model_parameters=trainable, config=config)
    return engine


def take_step(spec: RunSpec, engine: Engine, step_input: StepInput, counts: Counts) -> Tensor:
    """Run forward, backward and update for one step of this rank.

    counts: over all ranks. Returns this rank's sums, in the order of STATS.
    """
    # The loss is a sum divided by a global count, but DeepSpeed divides by accumulation steps and
    # averages over ranks: the factor undoes that. In fp16 DeepSpeed also multiplies the loss. The
    # objective forms its gradients in forward, so they must contain that factor already, and
    # `backward` must not bring it in again.
    loss_scale = float(getattr(engine.optimizer, "loss_scale", 1.0))
    factor = spec.num_accumulation_steps * spec.topology.num_students * loss_scale
    scales = Scales(token=factor / max(counts.tokens, 1), sense=factor / max(counts.senses, 1))
    sums = torch.zeros(len(STATS), dtype=torch.float64, device=engine.device)
    for batch in step_input.micro_batches:
        if spec.student.attention_dropout:
            seed_dropout(spec.seed, batch.place)
        loss, stats = engine(
            batch.input_ids, batch.position_ids, batch.teacher, batch.senses, scales
        )
        engine.backward(loss / loss_scale)
        sums += stats
        if not hasattr(engine.optimizer, "_global_grad_norm"):
            _keep_grad_norm(engine)
        engine.step()
    return sums


def _keep_grad_norm(engine: Any) -> None:
    """Store the gradients' norm where DeepSpeed's `get_global_grad_norm` looks for it.

    At ZeRO stage 0 in float32 DeepSpeed clips by the norm without storing it.
    """
    if engine.is_gradient_accumulation_boundary():
        parameters = engine.module.parameters()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        engine._global_grad_norm = torch.nn.utils.get_total_norm(gradients)


def set_lr(engine: Engine, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
