"""The final norm of models that have another name for it than Llama."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    PhiConfig,
)

from dskd_ds.errors import InputError
from dskd_ds.models.layers import final_norm_of, layers_of

SMALL_SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SMALL_SIZES),
        PhiConfig(**SMALL_SIZES),
        GPTNeoXConfig(**SMALL_SIZES),
        Lfm2Config(**SMALL_SIZES),
    ],
    ids=lambda config: type(config).__name__,
)
def test_the_final_norm_makes_the_heads_input_of_the_last_layers_output(config: Any) -> None:
    """Models call it by several names; layers are chosen by their impact on what it makes."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    outputs: list[torch.Tensor] = []
    last = layers_of(model)[-1]
    hook = last.register_forward_hook(
        lambda _module, _args, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    expected = model.base_model(torch.tensor([[1, 2, 3]])).last_hidden_state
    hook.remove()
    found = final_norm_of(model.base_model, "[teacher] model")(outputs[0])
    torch.testing.assert_close(found, expected)


def test_an_unknown_final_norm_is_named() -> None:
    with pytest.raises(InputError, match="keeps its final norm under none of the names norm,"):
        final_norm_of(torch.nn.Linear(2, 2), "[teacher] model")
