"""Snippets of text around positions of the corpus."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.senses.build.parts import contexts_of
from dskd_ds.senses.dictionary.contexts import Context, snippets
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld


class Words:
    """A tokenizer that writes token ids as numbers."""

    def batch_decode(self, pieces: list[list[int]], skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" ".join(map(str, piece)) for piece in pieces]


def test_a_snippet_stays_within_its_document() -> None:
    blocks: Any = [
        {"input_ids": list(range(10)), "segment_starts": [0, 4]},
        {"input_ids": list(range(50, 60)), "segment_starts": [0]},
    ]
    found = snippets(blocks, np.array([2, 3, 4, 12]), 10, Words())
    assert found == [
        Context("0 1 2", "3", ""),
        Context("0 1 2 3", "", ""),
        Context("4", "5", "6 7 8 9"),
        Context("50 51 52", "53", "54 55 56 57 58 59"),
    ]


def test_a_state_may_belong_to_the_token_at_its_position() -> None:
    """With attribution "on"; the first token of a document has nothing to its left."""
    blocks: Any = [
        {"input_ids": list(range(10)), "segment_starts": [0, 4]},
        {"input_ids": list(range(50, 60)), "segment_starts": [0]},
    ]
    found = snippets(blocks, np.array([2, 3, 4, 19]), 10, Words(), of_read_tokens=True)
    assert found == [
        Context("0 1", "2", "3"),
        Context("0 1 2", "3", ""),
        Context("", "4", "5 6 7 8 9"),
        Context("50 51 52 53 54 55 56 57 58", "59", ""),
    ]


@pytest.mark.parametrize(("attribution", "token"), [("on", "2"), ("next", "3"), ("argmax", "3")])
def test_a_dictionary_marks_the_token_of_its_attribution(
    tiny: TinyWorld, attribution: str, token: str
) -> None:
    size = load_spec(tiny.spec_file).data.block_tokens
    spec = load_spec(tiny.spec_file, [f"senses.attribution={attribution}", "senses.hidden_layer=2"])
    blocks: Any = [{"input_ids": list(range(size)), "segment_starts": [0]}]
    senses = Senses(
        owners=np.array([2]),
        centroids=torch.zeros(1, 4),
        counts=np.array([1]),
        sources=(np.array([2]),),
    )
    table = contexts_of(senses, blocks, spec=spec, tokenizer=Words(), old=None)
    assert table["token"].to_pylist() == [token]


def test_no_positions_give_no_snippets(tiny: TinyWorld) -> None:
    """A real tokenizer decodes an empty list to one empty text."""
    tokenizer = load_tokenizer(str(tiny.folder / "teacher"))
    assert snippets([], np.zeros(0, np.int64), 10, tokenizer) == []
