"""Measures how much the teacher's loss rises without each of its layers (`layers = "by_impact"`).

One ordinary forward pass records the input of every layer. Leaving out layer i then needs only the
layers behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.batches import Batch, Sample, make_batch
from dskd_ds.data.source import open_blocks
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.layers import final_norm_of, layers_of
from dskd_ds.models.named import NamedModel
from dskd_ds.spec.data import DataSpec

LOGIT_ROWS = 512
"""Positions whose logits exist at a time."""


@dataclass(frozen=True)
class LayerCall:
    """What a layer was called with."""

    hidden: Tensor
    """[B, T, D]"""
    arguments: dict[str, Any]
    """The keyword arguments: attention mask, rotary embeddings and others."""


@torch.inference_mode()
def removal_losses(data: DataSpec, named: NamedModel, num_tokens: int) -> list[float]:
    """Return, for each layer, the rise of the mean next-token loss in nats if it is left out.

    num_tokens: how many tokens of the training text to measure on, rounded up to whole blocks.
    """
    teacher = load_frozen(named)
    batch = _sample_batch(data, named, num_tokens)
    layers = list(layers_of(teacher.trunk, named.key))
    final_norm = final_norm_of(teacher.trunk, named.key)
    complete, calls = _record_calls(teacher, layers, batch)
    complete_loss = _mean_loss(teacher, complete, batch)
    rises: list[float] = []
    for left_out in tqdm(range(len(layers)), desc="measuring layers", unit="layer"):
        hidden = calls[left_out].hidden
        for later in range(left_out + 1, len(layers)):
            output = layers[later](hidden, **calls[later].arguments)
            hidden = output[0] if isinstance(output, tuple) else output
        # The layers were called without the trunk around them, so the final norm is still to come.
        loss = _mean_loss(teacher, final_norm(hidden), batch)
        rises.append(loss - complete_loss)
    return rises


def _sample_batch(data: DataSpec, named: NamedModel, num_tokens: int) -> Batch:
    """Return blocks with about `num_tokens` tokens, evenly spread over the training text."""
    blocks = open_blocks(data, named.tokenizer)
    wanted = -(-num_tokens // data.block_tokens)
    num_blocks = min(len(blocks), max(1, wanted))
    stride = len(blocks) // num_blocks
    rows = [blocks[index * stride] for index in range(num_blocks)]
    return make_batch(rows, [Sample(0, 0)] * num_blocks)


def _record_calls(
    teacher: FrozenModel, layers: list[Any], batch: Batch
) -> tuple[Tensor, list[LayerCall]]:
    """Return the states [B, T, D] that the head reads, and each layer's call, from one pass."""
    calls: list[LayerCall] = []

    def record(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(LayerCall(args[0], kwargs))

    hooks = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    hidden = teacher.hidden_states(batch.input_ids, batch.position_ids)
    for hook in hooks:
        hook.remove()
    return hidden, calls


def _mean_loss(teacher: FrozenModel, hidden: Tensor, batch: Batch) -> float:
    """Return the mean next-token loss in nats over the batch's supervised positions.

    hidden: [B, T, D] after the final norm.
    """
    positions = batch.supervised.to(hidden.device)
    states = hidden.flatten(0, 1)[positions]
    targets = batch.targets.flatten().to(hidden.device)[positions]
    losses = [
        torch.nn.functional.cross_entropy(teacher.logits(rows).float(), ids, reduction="sum")
        for rows, ids in zip(states.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
    ]
    return float(sum(losses)) / len(targets)
