"""The module that DeepSpeed trains: the student's trunk, followed by the whole objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from deepspeed.utils import set_z3_leaf_modules
from torch import Tensor, nn

from dskd_ds.errors import InputError
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.captured import captured_states
from dskd_ds.models.cut import read_head_weight
from dskd_ds.models.head import FrozenHead, HeadForm, refuse_bias
from dskd_ds.models.layers import compile_layers, layers_of
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.objective.fused import STATS, DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.runtime.devices import local_device, resolve_dtype
from dskd_ds.signals.kind import signal_kind
from dskd_ds.spec import RunSpec
from dskd_ds.spec.models import StudentSpec
from dskd_ds.student.counts import Counts
from dskd_ds.student.dropout import set_dropout
from dskd_ds.student.terms.layers import LayerTerm, layer_terms
from dskd_ds.student.terms.losses import TermLosses
from dskd_ds.student.terms.maps import term_maps
from dskd_ds.student.terms.values import TermBatch


class DistillStudent(nn.Module):
    """A causal language model and the objective that trains it."""

    def __init__(
        self, language_model: Any, objective: DistillObjective, losses: TermLosses | None = None
    ) -> None:
        """losses: those below the head."""
        super().__init__()
        self.language_model = language_model
        self.objective = objective
        self.term_losses = TermLosses() if losses is None else losses

    @property
    def stat_names(self) -> tuple[str, ...]:
        """Names of the sums that a forward pass returns, in order."""
        return (*STATS, *self.term_losses.stat_names)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        teacher: TeacherTargets,
        senses: SenseTargets | None = None,
        scales: Scales | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss to backpropagate, and the sums that `stat_names` names.

        input_ids, position_ids: [B, T]. Without `senses` and `scales`: the sum of the
        cross-entropy and the number of positions, see `DistillObjective.forward`.
        """
        # The trunk alone: the objective forms the logits, a chunk of positions at a time.
        trunk = self.language_model.base_model
        losses = self.term_losses
        with captured_states(trunk, losses.student_layers) as captured:
            output = trunk(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        loss, stats = self.objective(output.last_hidden_state, teacher, senses, scales)
        if not losses.terms or scales is None:
            return loss, stats
        batch = TermBatch(input_ids, teacher, self.objective.spec)
        weighted, sums = losses.add_up(captured, batch, scales.share_done)
        return loss + scales.token * weighted, torch.cat([stats, sums.to(stats)])

    def loss_record(self, total: dict[str, float], counts: Counts) -> dict[str, float]:
        """Return the terms of a step's loss, and their weighted sum, for the step's record.

        total: sums over all ranks, by their names in `stat_names`.
        """
        spec = self.objective.spec
        loss_ce = total["ce"] / max(counts.tokens, 1)
        loss_kd = total["kd"] / max(counts.tokens, 1)
        loss_sense = total["sense"] / max(counts.senses, 1)
        weighted_kd = spec.kd_weight * spec.temperature**2 * loss_kd
        weighted_head = spec.ce_weight * loss_ce + weighted_kd + spec.sense_weight * loss_sense
        weighted_terms, of_terms = self.term_losses.record(total, counts)
        return {
            "loss": weighted_head + weighted_terms,
            "loss_ce": loss_ce,
            "loss_kd": loss_kd,
            "loss_sense": loss_sense,
            **of_terms,
        }

    def all_reduce_gradient_measures(self) -> None:
        """Compare the gradients of losses below the head with all others'. A collective call."""
        self.term_losses.all_reduce_gradient_measures(self.objective.weight.device)


def load_student(
    spec: RunSpec,
    models: RunModels,
    init: NamedModel,
    deepspeed_config: dict[str, Any],
    margin: float,
) -> DistillStudent:
    """Load the student from `init`; under ZeRO-3 its weights are partitioned as they are read.

    margin: squared distance per dimension, as `DistillObjective` takes it.
    Raises InputError if the model's files lack weights, if the LM head has a bias, or if more
    layers are to be trained than exist.
    """
    model = load_language_model(init, deepspeed_config)
    student = assemble_student(
        spec,
        model,
        margin,
        teacher_head=teacher_head(spec, models),
        teacher_size=models.teacher.hidden_size,
        terms=layer_terms(spec, models),
    )
    if init.compiled:
        compile_layers(model)
    # ZeRO-3 then gathers and releases whole layers. Otherwise each Linear fetches its own weights,
    # and each fetch walks over all weights in Python.
    set_z3_leaf_modules(model, [type(layers_of(model)[0])])
    return student


def assemble_student(
    spec: RunSpec,
    model: Any,
    margin: float,
    *,
    teacher_head: FrozenHead | None,
    teacher_size: int,
    terms: Sequence[LayerTerm] = (),
) -> DistillStudent:
    """Return a language model with its objective, as it is trained.

    margin: squared distance per dimension. teacher_head: for the signal `exact`. teacher_size: the
    teacher's hidden size. terms: losses below the head. Raises InputError as `load_student` does.
    """
    freeze(model, spec.student)
    set_dropout(model, spec.student.attention_dropout)
    if spec.student.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    head: Any = model.get_output_embeddings()
    refuse_bias(head, "[student] model")
    config = model.config.get_text_config()
    objective = DistillObjective(
        head.weight,
        spec.loss,
        margin,
        form=HeadForm.of(config),
        teacher_head=teacher_head,
        sense_map=sense_map(spec, teacher_size, config.hidden_size),
    )
    maps = term_maps(
        terms, teacher_size, config.hidden_size, resolve_dtype(spec.student.dtype), spec.seed
    )
    return DistillStudent(model, objective, TermLosses(terms, maps))


def load_language_model(init: NamedModel, deepspeed_config: dict[str, Any]) -> Any:
    """Return the model as transformers loads it under this DeepSpeed configuration.

    Raises InputError if its files lack weights.
    """
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    # transformers loads under zero.Init while an object of this class exists.
    active_config = HfDeepSpeedConfig(deepspeed_config)
    model = init.load()
    del active_config
    return model


def teacher_head(spec: RunSpec, models: RunModels) -> FrozenHead | None:
    """Return a copy of the teacher's head if the signal kind needs one (`exact`), else None.

    The copy is loaded onto this rank's device, because DeepSpeed does not move a module that was
    loaded partitioned. Raises InputError if the teacher's files contain no head.
    """
    if not signal_kind(spec.loss).needs_teacher_head:
        return None
    teacher = models.teacher
    weight = read_head_weight(teacher.path)[: models.shared_vocab_size]
    weight = weight.to(local_device(), resolve_dtype(teacher.dtype))
    return FrozenHead(weight, HeadForm.of(teacher.text_config))


def sense_map(spec: RunSpec, teacher_size: int, size: int) -> nn.Parameter | None:
    """Return the trainable map [D_teacher, D] from the student's states to the senses' space.

    None if the run uses no senses, or if the student's hidden size is the teacher's.

    The map starts at zero, so the senses first train the map and then the student. A random map
    would first pull the student's states in random directions. The map is part of the objective,
    so the exported student does not contain it.
    """
    if not spec.uses_senses or size == teacher_size:
        return None
    return nn.Parameter(torch.zeros(teacher_size, size, dtype=resolve_dtype(spec.student.dtype)))


def freeze(model: Any, spec: StudentSpec) -> None:
    """Freeze what the spec does not train: all but the last layers, or all but the layers.

    Raises InputError if the model has fewer layers than are to be trained.
    Source: docs/method.md, "The paper's student".
    """
    if spec.trains_outer:
        return
    layers = layers_of(model)
    num_trained = spec.train_last_layers or len(layers)
    if num_trained > len(layers):
        raise InputError(
            f"[student] train_last_layers = {num_trained}, but the student has"
            f" {len(layers)} layers.\n"
            f"  train at most {len(layers)}, or leave the key out to train all of them."
        )
    model.requires_grad_(False)
    for layer in layers[-num_trained:]:
        layer.requires_grad_(True)
    layers[-num_trained].register_forward_pre_hook(_require_input_gradient)


def _require_input_gradient(_: nn.Module, args: tuple[Any, ...]) -> None:
    """Make the input of the first trained layer require a gradient.

    ZeRO-3 releases a layer's weights when the gradient of its input is ready. If the input comes
    from frozen layers and requires no gradient, that hook fires before the layer's backward pass.
    Source: docs/deepspeed.md, "Frozen layers".
    """
    if torch.is_grad_enabled() and not args[0].requires_grad:
        args[0].requires_grad_()
