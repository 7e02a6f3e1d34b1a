"""The student as DeepSpeed sees it: one module whose forward is the trunk and then the whole objective."""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.utils import set_z3_leaf_modules
from torch import Tensor, nn

from dskd_ds.errors import InputError
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.cut import read_head_weight
from dskd_ds.models.head import FrozenHead, HeadForm, refuse_bias
from dskd_ds.models.layers import compile_layers, layers_of
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.objective.fused import DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.runtime.devices import local_device, resolve_dtype
from dskd_ds.signals.kind import signal_kind
from dskd_ds.spec import RunSpec


class DistillStudent(nn.Module):
    """A causal language model and the objective that trains it."""

    def __init__(self, language_model: Any, objective: DistillObjective) -> None:
        super().__init__()
        self.language_model = language_model
        self.objective = objective

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        teacher: TeacherTargets,
        senses: SenseTargets,
        scales: Scales,
    ) -> tuple[Tensor, Tensor]:
        """[B, T] ids and positions -> the loss to backpropagate and the sums of objective/fused.py."""
        trunk = self.language_model.base_model
        hidden = trunk(
            input_ids=input_ids, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        loss, stats = self.objective(hidden, teacher, senses, scales)
        return loss, stats


def load_student(
    spec: RunSpec,
    models: RunModels,
    init: NamedModel,
    deepspeed_config: dict[str, Any],
    margin: float,
) -> DistillStudent:
    """Load the student from `init`; under ZeRO-3 its weights are partitioned as they are read.

    Raises InputError for a head with a bias, or where more layers are to be trained than there are.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    # transformers looks for a live object of this class and then loads under zero.Init.
    live = HfDeepSpeedConfig(deepspeed_config)
    model: Any = AutoModelForCausalLM.from_pretrained(
        init.path, dtype=resolve_dtype(init.dtype), trust_remote_code=False
    )
    del live
    freeze(model, spec.student.train_last_layers)
    if spec.student.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if init.compiled:
        compile_layers(model)
    head: Any = model.get_output_embeddings()
    refuse_bias(head, "[student] model")
    # ZeRO-3 gathers and releases whole layers: fetching each Linear on its own costs a Python walk over all of them every time.
    set_z3_leaf_modules(model, [type(layers_of(model)[0])])
    config = model.config.get_text_config()
    return DistillStudent(
        model,
        DistillObjective(
            head.weight,
            spec.loss,
            margin,
            HeadForm.of(config),
            teacher_head(spec, models),
            sense_map(spec, models.teacher.hidden_size, config.hidden_size),
        ),
    )


def teacher_head(spec: RunSpec, models: RunModels) -> FrozenHead | None:
    """A copy of the teacher's head, for signal `exact`; None for the others. Raises InputError if there is none to be found.

    On this rank's device from the start: DeepSpeed does not move a module that was loaded partitioned.
    """
    if not signal_kind(spec.loss).needs_teacher_head:
        return None
    teacher = models.teacher
    weight = read_head_weight(teacher.path)[: models.shared_vocab_size]
    return FrozenHead(
        weight.to(local_device(), resolve_dtype(teacher.dtype)), HeadForm.of(teacher.text_config)
    )


def sense_map(spec: RunSpec, teacher_size: int, size: int) -> nn.Parameter | None:
    """[D_teacher, D] from the student's states into the senses' space, to be trained; None where the student's size is the teacher's.

    It begins at zero: the senses then teach the map before they teach the student. From a random map they would pull its states in
    random directions first. It belongs to the objective, so that the exported student does not have it.
    """
    if not spec.uses_senses or size == teacher_size:
        return None
    return nn.Parameter(torch.zeros(teacher_size, size, dtype=resolve_dtype(spec.student.dtype)))


def freeze(model: Any, train_last_layers: int | None) -> None:
    """Leave only the last layers trainable: embeddings, norm, head and earlier layers stay as they are (paper). None: train all."""
    if train_last_layers is None:
        return
    layers = layers_of(model)
    if train_last_layers > len(layers):
        raise InputError(
            f"[student] train_last_layers = {train_last_layers}, but the student has {len(layers)} layers.\n"
            f"  train at most {len(layers)}, or leave it out to train everything."
        )
    model.requires_grad_(False)
    for layer in layers[-train_last_layers:]:
        layer.requires_grad_(True)
    layers[-train_last_layers].register_forward_pre_hook(_want_input_gradient)


def _want_input_gradient(_: nn.Module, args: tuple[Any, ...]) -> None:
    """ZeRO-3 lets go of a layer's weights when the gradient of its input is there; where the input comes from frozen layers and wants
    none, that hook fires before the layer's backward has run. So the first trained layer's input wants one."""
    if torch.is_grad_enabled() and not args[0].requires_grad:
        args[0].requires_grad_()
