"""How much worse the teacher predicts without each of its layers: what `[student] layers = "by_impact"` goes by.

The states before each layer are kept from one ordinary forward pass, so that leaving layer i out only runs the layers behind it.
"""

from __future__ import annotations

from typing import Any

import torch
from tqdm import tqdm

from dskd_ds.data.batches import Sample, make_batch
from dskd_ds.data.blocks import train_blocks
from dskd_ds.models.frozen import load_teacher
from dskd_ds.models.layers import layers_of
from dskd_ds.models.named import NamedModel
from dskd_ds.spec.data import DataSpec


@torch.inference_mode()
def removal_losses(data: DataSpec, named: NamedModel, num_tokens: int) -> list[float]:
    """Rise of the mean next-token loss, in nats, when a layer is left out; one number for each layer."""
    teacher = load_teacher(named)
    blocks = train_blocks(data, named.tokenizer)
    number = min(len(blocks), max(1, -(-num_tokens // data.block_tokens)))
    stride = len(blocks) // number
    rows = [blocks[i * stride] for i in range(number)]
    batch = make_batch(rows, [Sample(0, 0)] * number)
    layers = layers_of(teacher.trunk, named.key)
    calls: list[tuple[torch.Tensor, dict[str, Any]]] = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append((args[0], kwargs)), with_kwargs=True
        )
        for layer in layers
    ]
    complete = teacher.hidden_states(batch.input_ids, batch.position_ids)
    for hook in hooks:
        hook.remove()

    def loss(hidden: torch.Tensor) -> float:
        positions = batch.supervised.to(hidden.device)
        targets = batch.targets.flatten().to(hidden.device)[positions]
        parts = [
            torch.nn.functional.cross_entropy(teacher.logits(h).float(), t, reduction="sum")
            for h, t in zip(
                hidden.flatten(0, 1)[positions].split(512), targets.split(512), strict=True
            )
        ]
        return float(sum(parts)) / len(targets)

    whole = loss(complete)
    losses = []
    for left_out in tqdm(range(len(layers)), desc="measuring layers", unit="layer"):
        hidden = calls[left_out][0]
        for layer, (_, kwargs) in list(zip(layers, calls, strict=True))[left_out + 1 :]:
            output = layer(hidden, **kwargs)
            hidden = output[0] if isinstance(output, tuple) else output
        losses.append(loss(teacher.trunk.norm(hidden)) - whole)
    return losses
