"""The teacher's states around words in texts: the one that predicts the word, and the one that has just read it; at any layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.packing import begin_ids
from dskd_ds.models.frozen import TeacherModel

TEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class WordStates:
    """Of N words in their texts, at one layer."""

    before: Tensor
    """[N, D] float32: the state on the token before the word, which predicts it. A vector of a dictionary is such a state."""
    on: Tensor
    """[N, D] float32: the state on the word's last token, which has read the word."""


def num_layers(teacher: TeacherModel) -> int:
    """The last layer that can be asked for: the state after the final norm."""
    return int(teacher.trunk.config.get_text_config().num_hidden_layers)


@torch.inference_mode()
def word_states(
    teacher: TeacherModel,
    tokenizer: Any,
    words: Sequence[tuple[str, int, int]],
    layers: Sequence[int],
    what: str,
) -> dict[int, WordStates]:
    """States of words, by layer.

    words: (text, start, end), characters `start:end` being the word, something other than spaces before it. A text is cut where
    its word ends: a decoder's states do not depend on what follows. layers: 0 (the embeddings) to num_layers. what: the bar's name.
    """
    begin = begin_ids(tokenizer)
    places = [_places(tokenizer, begin, *word) for word in words]
    order = sorted(range(len(words)), key=lambda i: len(places[i][0]))
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    with tqdm(total=len(words), desc=what, unit="texts") as bar:
        for start in range(0, len(order), TEXTS_AT_ONCE):
            batch = [places[i] for i in order[start : start + TEXTS_AT_ONCE]]
            for layer, states in zip(layers, _forward(teacher, batch, layers), strict=True):
                found[layer].append(states)
            bar.update(len(batch))
    back = torch.tensor(order).argsort()
    joined = {layer: torch.cat(parts)[back] for layer, parts in found.items()}
    return {layer: WordStates(states[:, 0], states[:, 1]) for layer, states in joined.items()}


def _places(
    tokenizer: Any, begin: list[int], text: str, start: int, end: int
) -> tuple[list[int], int]:
    """Tokens of the text up to the word's end, and the place of the token before the word."""
    encoded = tokenizer(text[:end], add_special_tokens=False, return_offsets_mapping=True)
    first = next(i for i, (_, stop) in enumerate(encoded["offset_mapping"]) if stop > start)
    assert first > 0, f"nothing before the word in {text[:end]!r}"
    return [*begin, *encoded["input_ids"]], len(begin) + first - 1


def _forward(
    teacher: TeacherModel, batch: list[tuple[list[int], int]], layers: Sequence[int]
) -> list[Tensor]:
    """[B, 2, D] for each layer: the states before and on the words. Padding follows the words, so it changes nothing."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor(
        [ids + [0] * (longest - len(ids)) for ids, _ in batch], device=teacher.device
    )
    positions = torch.arange(longest, device=teacher.device).expand_as(ids)
    output = teacher.trunk(
        input_ids=ids, position_ids=positions, use_cache=False, output_hidden_states=True
    )
    wanted = torch.tensor([[before, len(ids) - 1] for ids, before in batch], device=teacher.device)
    rows = torch.arange(len(batch), device=teacher.device)[:, None]
    return [output.hidden_states[layer][rows, wanted].float().cpu() for layer in layers]
