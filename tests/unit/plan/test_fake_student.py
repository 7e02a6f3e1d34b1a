"""The memory formulas against torch's memory tracker, with fake tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from dskd_ds.costs.activations import activation_bytes
from dskd_ds.costs.shapes import model_shape
from dskd_ds.plan.fake_student import FakeSizes, StepMemory, step_memory
from dskd_ds.spec import RunSpec, load_spec

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
HALF, FULL = torch.bfloat16, torch.float32


def spec_with(*overrides: str) -> RunSpec:
    sizes = ["data.block_tokens=128", "train.micro_batch_blocks=2", "train.global_batch_blocks=4"]
    return load_spec("tests/base_run.toml", [*sizes, "loss.sense_weight=0", *overrides])


def config_of(kind: str, num_layers: int) -> Any:
    return AutoConfig.for_model(kind, **SIZES, num_hidden_layers=num_layers)


def memory_of(kind: str, num_layers: int, dtype: torch.dtype, *overrides: str) -> StepMemory:
    sizes = FakeSizes(teacher_size=256, dtype=dtype)
    return step_memory(spec_with(*overrides), config_of(kind, num_layers), sizes)


@pytest.mark.parametrize(
    ("kind", "dtype", "error"),
    [
        ("llama", FULL, 0.01),
        ("llama", HALF, 0.01),
        ("qwen3", HALF, 0.02),
        ("gemma3_text", HALF, 0.12),
    ],
)
def test_what_a_layer_keeps_is_counted(kind: str, dtype: torch.dtype, error: float) -> None:
    """A layer more keeps as much more as the formula says, within `error`."""
    more, less = (memory_of(kind, count, dtype).kept for count in (2, 1))
    shape = model_shape(config_of(kind, 1).to_dict(), kind)
    predicted = activation_bytes(
        shape,
        rows=2,
        row_tokens=128,
        number_bytes=dtype.itemsize,
        trained_layers=1,
        checkpointing=False,
        packed=True,
    )
    assert predicted.kept == pytest.approx(more - less, rel=error)


def test_checkpointing_keeps_the_layers_inputs() -> None:
    setting = "student.activation_checkpointing=true"
    more, less = (memory_of("llama", count, HALF, setting).kept for count in (2, 1))
    assert more - less == 256 * 256 * 2  # tokens, numbers, bytes
