"""The module that DeepSpeed trains while a student is repaired: only the layers beside the cuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dskd_ds.losses.sense import SenseTargets
from dskd_ds.losses.states import DISTANCES
from dskd_ds.models.captured import captured_states
from dskd_ds.models.layers import layers_of
from dskd_ds.objective.fused import STATS, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.observe.charts import LAYER_LOSS
from dskd_ds.spec.repair import StateDistance
from dskd_ds.student.counts import Counts
from dskd_ds.student.repair.blocks import RepairBlock, teacher_layers


class RepairStudent(nn.Module):
    """The repaired layers of a student, each with the teacher's own state as its input."""

    def __init__(
        self, language_model: Any, blocks: Sequence[RepairBlock], distance: StateDistance
    ) -> None:
        """Take over a model. All its weights but those of `blocks` are frozen or dropped."""
        super().__init__()
        self.language_model = language_model
        self._blocks = tuple(blocks)
        self._row_of = {layer: row for row, layer in enumerate(teacher_layers(blocks))}
        self._distance = DISTANCES[distance]
        self.stat_names = (*STATS, *(stat_name(block) for block in blocks))
        self._inputs: dict[int, Tensor] = {}
        self._keep_only_blocks()

    def _keep_only_blocks(self) -> None:
        """Freeze everything but the blocks, and drop the weights of all other layers.

        The trunk itself calls the blocks, so they get its masks and rotary embeddings, whatever
        the architecture.
        """
        self.language_model.requires_grad_(False)
        layers = layers_of(self.language_model)
        repaired = {block.layer for block in self._blocks}
        for index in range(len(layers)):
            if index not in repaired:
                layers[index] = SkippedLayer()
                continue
            layers[index].requires_grad_(True)
            layers[index].register_forward_pre_hook(self._feed(index))

    def _feed(self, layer: int) -> Any:
        """Return a hook that replaces a layer's input by the teacher's state."""

        def replace_input(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (self._inputs[layer], *args[1:])

        return replace_input

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        teacher: TeacherTargets,
        senses: SenseTargets,
        scales: Scales,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss to backpropagate, and the sums that `stat_names` names.

        input_ids, position_ids: [B, T]. teacher: its `layers` are the states [layers, B * T, D] of
        `teacher_layers(blocks)`; `positions` are those that count.
        """
        del senses  # they belong to the head
        assert teacher.layers is not None
        dtype = next(self.language_model.parameters()).dtype
        states = teacher.layers.to(dtype)
        shape = (*input_ids.shape, states.shape[2])
        for block in self._blocks:
            # ZeRO-3 releases a layer's weights when the gradient of its input is ready, so the
            # input must have one (docs/deepspeed.md, "Frozen layers").
            block_input = states[self._row_of[block.reads]].view(shape).detach()
            self._inputs[block.layer] = block_input.requires_grad_()
        first = self._inputs[self._blocks[0].layer].detach()
        # `inputs_embeds` only spares the gathering of the embeddings.
        trunk = self.language_model.base_model
        outputs = [block.layer + 1 for block in self._blocks]
        # Captured by hooks that come after DeepSpeed's: those gather a layer's weights when the
        # gradient of its output arrives.
        with captured_states(trunk, outputs) as captured:
            trunk(inputs_embeds=first, position_ids=position_ids, use_cache=False)
        losses = torch.stack(
            [
                self._loss(block, captured[output], states, teacher)
                for block, output in zip(self._blocks, outputs, strict=True)
            ]
        )
        self._inputs.clear()
        sums = torch.cat([losses.new_zeros(len(STATS)), losses.detach()]).double()
        return scales.token * losses.mean(), sums

    def _loss(
        self, block: RepairBlock, output: Tensor, states: Tensor, teacher: TeacherTargets
    ) -> Tensor:
        """Return the sum of a block's loss over the positions that count. output: [B, T, D]."""
        rows = teacher.positions
        found = output.flatten(0, 1).index_select(0, rows)
        wanted = states[self._row_of[block.gives]].index_select(0, rows)
        return self._distance(found, wanted).sum()

    def loss_record(self, total: dict[str, float], counts: Counts) -> dict[str, float]:
        """Return the losses of a step for its record: the mean over the blocks, and each block's.

        total: sums over all ranks, by their names in `stat_names`.
        """
        names = [stat_name(block) for block in self._blocks]
        losses = {name: total[name] / max(counts.tokens, 1) for name in names}
        mean = sum(losses.values()) / len(losses)
        return {"loss": mean, "loss_ce": 0.0, "loss_kd": 0.0, "loss_sense": 0.0, **losses}

    def all_reduce_gradient_measures(self) -> None:
        """Do nothing: this module measures no gradients."""


class SkippedLayer(nn.Module):
    """Stands for a layer that is not repaired: returns its input."""

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """Return the input."""
        return hidden_states


def stat_name(block: RepairBlock) -> str:
    """Return the key of a block's loss in the metrics; layers count from 1, as outputs do."""
    return f"{LAYER_LOSS}{block.layer + 1}"
