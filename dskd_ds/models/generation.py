"""Continuing token sequences with a transformers model, so that what comes out depends on nothing but the sequence and its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList


def keyed_seed(key: Sequence[int]) -> int:
    """A seed that belongs to a key, e.g. (run's seed, sample)."""
    return int(
        np.random.SeedSequence([part % 2**64 for part in key]).generate_state(1, np.uint64)[0]
        >> np.uint64(1)
    )


class KeyedSampling(LogitsProcessor):
    """Draws each sequence's tokens with a generator of its own.

    The largest of logits / temperature plus Gumbel noise is a draw from their softmax (Gumbel-max), so a greedy search over what
    this returns samples, and neither the rest of the batch nor the number of ranks has a part in it.
    """

    def __init__(self, keys: Sequence[Sequence[int]], temperature: float) -> None:
        self._generators = [torch.Generator().manual_seed(keyed_seed(key)) for key in keys]
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 (transformers' interface)
        """[B, V] logits -> [B, V] whose arg-max is a draw."""
        draws = [
            torch.empty(scores.shape[1]).exponential_(generator=generator)
            for generator in self._generators
        ]
        return scores.float() / self._temperature - torch.stack(draws).log_().to(scores.device)


@torch.no_grad()
def continue_tokens(
    model: Any,
    prompts: Sequence[list[int]],
    keys: Sequence[Sequence[int]],
    new_tokens: int,
    temperature: float,
    end_ids: Sequence[int],
) -> list[list[int]]:
    """The model's continuation of each prompt: at most `new_tokens`, up to and with the first of `end_ids`.

    prompts: not empty. keys: one a prompt, for what is drawn. temperature: 0 takes the likeliest token.
    """
    longest = max(map(len, prompts))
    pad = end_ids[0]
    ids = torch.tensor(
        [[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device
    )
    mask = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts],
        device=model.device,
    )
    # A hub model's own generation settings (top-p, penalties) would be merged into ours.
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=list(end_ids), pad_token_id=pad
    )
    processors = LogitsProcessorList([KeyedSampling(keys, temperature)] if temperature > 0 else [])
    output = model.generate(
        input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=processors
    )
    return [_up_to_end(row, set(end_ids)) for row in output[:, longest:].tolist()]


def _up_to_end(tokens: list[int], end_ids: set[int]) -> list[int]:
    end = next((number + 1 for number, token in enumerate(tokens) if token in end_ids), len(tokens))
    return tokens[:end]


def end_ids_of(model: Any, tokenizer: Any) -> list[int]:
    """The tokens at which a model stops: its generation settings', its configuration's and its tokenizer's. Call before generating."""
    found: list[int] = []
    for value in (
        tokenizer.eos_token_id,
        model.generation_config.eos_token_id,
        model.config.get_text_config().eos_token_id,
    ):
        found += value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(found))
