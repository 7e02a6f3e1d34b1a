"""A teacher whose every answer is known beforehand, and a small dictionary of its size."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.head import PLAIN
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.senses.index.graph import build_index
from dskd_ds.spec.senses import SensesSpec

T, V, D = 40, 60, 8


class NextToken(torch.nn.Module):
    """A trunk that knows the text: token t is followed by (7 t + 1) mod V.

    Its state at t is the head's row of that next token.
    """

    def __init__(self, head: torch.Tensor) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool
    ) -> SimpleNamespace:
        assert not use_cache
        return SimpleNamespace(
            last_hidden_state=self.head[(7 * input_ids + 1) % V] + 0.01 * position_ids[:, :, None]
        )


HEAD = 3 * torch.nn.functional.normalize(
    torch.randn(V, D, generator=torch.Generator().manual_seed(0))
)


@pytest.fixture
def teacher() -> FrozenModel:
    return FrozenModel(
        trunk=NextToken(HEAD),
        head=HEAD,
        form=PLAIN,
        vocab_size=V,
        hidden_size=D,
        fingerprint="f",
        device=torch.device("cpu"),
    )


PER_TOKEN, NUM_SPANS = 3, 1


def senses(**settings: Any) -> SensesSpec:
    """Return settings for dictionaries of this size."""
    defaults = {
        "dictionary": "-",
        "kappa": 2,
        "min_positions": 6,
        "index_dims": 8,
        "index_search_effort": 100,
        "num_neighbours": 30,
    }
    return SensesSpec(**(defaults | settings))


def dictionary_in(folder: Path, seed: int = 0, per_token: int = PER_TOKEN) -> SenseDictionary:
    """Write random senses of every token and a span, with relations and an index; open them."""
    rows = torch.randn(V * per_token, D, generator=torch.Generator().manual_seed(seed))
    # Tokens have synonyms only, antonyms only, both or neither. V is the id of the only span.
    relations = TokenRelations(
        synonyms={t: [(t + 1) % V, V] for t in range(0, V, 2)},
        antonyms={t: [(t + 20) % V] for t in range(0, V, 3)},
        spans=[(3, 4)],
    )
    write_dictionary(
        folder,
        Senses(np.repeat(np.arange(V), per_token), rows, np.ones(len(rows), np.int64)),
        relations,
        {"vocab_size": V, "layer": -1, "teacher": "t", "tokenizer": "z"},
        per_token,
    )
    opened = open_dictionary(folder)
    build_index(opened, senses(), torch.randn(4, D))
    return opened


@pytest.fixture
def dictionary(tmp_path: Path) -> SenseDictionary:
    return dictionary_in(tmp_path / "senses")
