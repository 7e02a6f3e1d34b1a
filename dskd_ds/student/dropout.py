"""Dropout of the student: that of the attention as the spec says, no other, seeded per micro-batch.

Each micro-batch seeds torch's default generators by its place in the global order of the data. So
its masks are the same for any number of ranks, and after a resume without a stored generator state.
Layers that are computed again in the backward pass draw the same masks, because torch restores the
generator for them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dskd_ds.errors import InputError
from dskd_ds.models.generation import keyed_seed
from dskd_ds.models.layers import layers_of

DROPOUT_STREAM = 0xD50
"""Separates the seeds of dropout from other seeds that are made of the run's seed."""


def set_dropout(model: Any, attention: float) -> None:
    """Let every attention module of a causal language model drop weights while training.

    All other dropouts are turned off, which the configurations of some models (Starcoder2) turn on:
    a student that is to follow its teacher's every output learns nothing from their noise.
    The configuration stays as it is, so that the exported student asks for no other dropout.
    attention: the probability. Raises InputError if no layer of the model has an attention dropout.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Other modules keep a number, which they give to a function.
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    found = [
        module
        for layer in layers_of(model)
        for module in layer.modules()
        if isinstance(getattr(module, "attention_dropout", None), float | int)
    ]
    for module in found:
        module.attention_dropout = attention
    if attention and not found:
        raise InputError(
            f"[student] attention_dropout = {attention}, but {type(model).__name__} has no"
            " attention dropout.\n"
            "  set it to 0, or use a model of another architecture (Llama, Mistral, Qwen ... have"
            " it)."
        )


def seed_dropout(seed: int, place: int) -> None:
    """Seed torch's generators of all devices for one micro-batch.

    seed: of the run. place: of the micro-batch's first block, in the global order of blocks.
    """
    torch.manual_seed(keyed_seed((seed, DROPOUT_STREAM, place)))
