"""Continues token sequences with a model. The result depends only on the sequence and its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TopPLogitsWarper,
)


def keyed_seed(key: Sequence[int]) -> int:
    """Return a seed of 63 bits for a key, e.g. (seed of the run, sample)."""
    # SeedSequence takes no negative numbers.
    sequence = np.random.SeedSequence([part % 2**64 for part in key])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class KeyedSampling(LogitsProcessor):
    """Draws the tokens of each sequence with a separate generator.

    The largest of logits / temperature plus Gumbel noise is a draw from their softmax (the
    Gumbel-max trick). So a greedy search over these scores samples, and the draws depend neither on
    the rest of the batch nor on the number of ranks.
    """

    def __init__(
        self, keys: Sequence[Sequence[int]], temperature: float, top_p: float = 1.0
    ) -> None:
        """top_p: draw only from the likeliest tokens that together have this probability."""
        self._generators = [torch.Generator().manual_seed(keyed_seed(key)) for key in keys]
        self._temperature = temperature
        self._top_p = TopPLogitsWarper(top_p) if top_p < 1 else None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores [B, V] whose arg-max is a draw from the logits [B, V]."""
        # Minus the logarithm of an exponential draw is Gumbel noise. It is drawn on the CPU, where
        # a seed gives the same numbers whatever the device of the model.
        draws = [
            torch.empty(scores.shape[1]).exponential_(generator=generator)
            for generator in self._generators
        ]
        scaled = scores.float() / self._temperature
        if self._top_p is not None:  # like transformers: after the temperature
            scaled = self._top_p(input_ids, scaled)
        return scaled - torch.stack(draws).log_().to(scores.device)


@torch.no_grad()
def continue_tokens(
    model: Any,
    prompts: Sequence[list[int]],
    keys: Sequence[Sequence[int]],
    new_tokens: int,
    temperature: float,
    end_ids: Sequence[int],
    top_p: float = 1.0,
) -> list[list[int]]:
    """Return the model's continuation of each prompt.

    A continuation has at most `new_tokens` tokens and ends with the first of `end_ids`.
    prompts: not empty. keys: one per prompt, the seed of its draws. temperature: 0 takes the
    likeliest token. top_p: draws are from the likeliest tokens that together have this probability.
    """
    longest = max(map(len, prompts))
    pad = end_ids[0]
    # Padded on the left, so that every continuation begins in the same column.
    ids = torch.tensor(
        [[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device
    )
    mask = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts],
        device=model.device,
    )
    # The generation settings of a hub model (top-p, penalties) would be merged into these.
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=list(end_ids), pad_token_id=pad
    )
    sampling = [KeyedSampling(keys, temperature, top_p)] if temperature > 0 else []
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=settings,
        logits_processor=LogitsProcessorList(sampling),
    )
    # A row that ends before the others is padded with the first of `end_ids`.
    return [_up_to_end(row, set(end_ids)) for row in output[:, longest:].tolist()]


def _up_to_end(tokens: list[int], end_ids: set[int]) -> list[int]:
    """Return the tokens up to and including the first of `end_ids`."""
    for index, token in enumerate(tokens):
        if token in end_ids:
            return tokens[: index + 1]
    return tokens


def end_ids_of(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens at which a model stops.

    They come from its tokenizer, generation settings and configuration. Call this before
    `continue_tokens`, which replaces the generation settings.
    """
    found: list[int] = []
    # The end of turn of a chat model can be in its generation settings only.
    for value in (
        tokenizer.eos_token_id,
        model.generation_config.eos_token_id,
        model.config.get_text_config().eos_token_id,
    ):
        if isinstance(value, list):
            found += value
        elif value is not None:
            found.append(value)
    return list(dict.fromkeys(found))
