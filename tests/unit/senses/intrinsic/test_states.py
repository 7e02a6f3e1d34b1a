"""The states of words in texts, against plain forward passes."""

from __future__ import annotations

from typing import Any

import torch

from dskd_ds.models.frozen import load_frozen
from dskd_ds.senses.intrinsic.states import WordInText, word_states
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of

WORDS_IN_TEXTS = [
    ("the bank of the river was old", "river"),
    ("money in the bank", "bank"),
    ("happy banks", "banks"),
    ("in the cold city was warm water and the river", "river"),
]


def test_states_are_those_of_whole_texts_read_alone(tiny: TinyWorld, tokenizer: Any) -> None:
    teacher = load_frozen(teacher_of(load_spec(tiny.spec_file)), torch.device("cpu"))
    words = []
    for text, word in WORDS_IN_TEXTS:
        start = text.index(word)
        words.append(WordInText(text, start, start + len(word)))
    found = word_states(teacher, tokenizer, words, (0, 2, 4), "test")
    for row, word in enumerate(words):
        ids = tokenizer(word.text, return_tensors="pt")["input_ids"]
        num_before = len(tokenizer(word.text[: word.start - 1])["input_ids"])
        num_through = len(tokenizer(word.text[: word.end])["input_ids"])
        for layer, states in found.items():
            whole, _ = teacher.states_of_layer(ids, torch.arange(ids.shape[1])[None], layer)
            expected_before, expected_on = whole[0, num_before - 1], whole[0, num_through - 1]
            torch.testing.assert_close(states.before[row], expected_before, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(states.on[row], expected_on, atol=1e-5, rtol=1e-4)
