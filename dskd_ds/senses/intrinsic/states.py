"""Read the teacher's states of words in texts, at any layers.

Two states are read per word: the one that predicts the word, and the one that has just read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.packing import begin_ids
from dskd_ds.models.frozen import FrozenModel

TEXTS_PER_BATCH = 32

Position = Literal["before", "on"]
POSITIONS: tuple[Position, ...] = ("before", "on")


@dataclass(frozen=True)
class WordInText:
    """A word in a text, with something other than spaces before it."""

    text: str
    start: int
    end: int
    """Characters `start:end` of the text are the word."""


@dataclass(frozen=True)
class WordStates:
    """The states of N words in their texts, at one layer."""

    before: Tensor
    """[N, D] float32: the state on the token before the word, which predicts the word. The vectors
    of a dictionary are such states."""
    on: Tensor
    """[N, D] float32: the state on the word's last token, which has read the word."""

    def at(self, position: Position) -> Tensor:
        """Return the states [N, D] at one of the two positions."""
        return self.before if position == "before" else self.on


@dataclass(frozen=True)
class _EncodedWord:
    """A text that ends with a word, as tokens."""

    ids: list[int]
    before: int
    """Index of the token before the word."""


def num_layers(teacher: FrozenModel) -> int:
    """Return the index of the last layer that can be read: the state after the final norm."""
    return int(teacher.trunk.config.get_text_config().num_hidden_layers)


@torch.inference_mode()
def word_states(
    teacher: FrozenModel,
    tokenizer: Any,
    words: Sequence[WordInText],
    layers: Sequence[int],
    description: str,
) -> dict[int, WordStates]:
    """Return layer -> the states of the words, in their order.

    layers: 0 (the embeddings) to num_layers. description: shown beside the progress bar.
    A text is cut where its word ends, because a decoder's states do not depend on what follows.
    """
    begin = begin_ids(tokenizer)
    encoded = [_encode(tokenizer, begin, word) for word in words]
    # Texts of similar length share a batch, which keeps padding low.
    by_length = sorted(range(len(words)), key=lambda i: len(encoded[i].ids))
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    with tqdm(total=len(words), desc=description, unit="texts") as progress:
        for start in range(0, len(words), TEXTS_PER_BATCH):
            batch = [encoded[i] for i in by_length[start : start + TEXTS_PER_BATCH]]
            states_of_layers = _forward(teacher, batch, layers)
            for layer, states in zip(layers, states_of_layers, strict=True):
                found[layer].append(states)
            progress.update(len(batch))
    original_order = torch.tensor(by_length).argsort()
    result: dict[int, WordStates] = {}
    for layer, batches in found.items():
        states = torch.cat(batches)[original_order]
        result[layer] = WordStates(before=states[:, 0], on=states[:, 1])
    return result


def _encode(tokenizer: Any, begin: list[int], word: WordInText) -> _EncodedWord:
    """Encode the text up to the end of the word. begin: tokens that every text begins with."""
    text = word.text[: word.end]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"]]
    first_token = next(i for i, end in enumerate(ends) if end > word.start)
    assert first_token > 0, f"nothing before the word in {text!r}"
    return _EncodedWord([*begin, *encoded["input_ids"]], len(begin) + first_token - 1)


def _forward(
    teacher: FrozenModel, batch: Sequence[_EncodedWord], layers: Sequence[int]
) -> list[Tensor]:
    """Return [B, 2, D] for each layer: the states before and on the words.

    The padding follows the words, so it does not change their states.
    """
    device = teacher.device
    longest = max(len(word.ids) for word in batch)
    padded = [word.ids + [0] * (longest - len(word.ids)) for word in batch]
    ids = torch.tensor(padded, device=device)
    output = teacher.trunk(
        input_ids=ids,
        position_ids=torch.arange(longest, device=device).expand_as(ids),
        use_cache=False,
        output_hidden_states=True,
    )
    wanted = torch.tensor([[word.before, len(word.ids) - 1] for word in batch], device=device)
    rows = torch.arange(len(batch), device=device)[:, None]
    return [output.hidden_states[layer][rows, wanted].float().cpu() for layer in layers]
