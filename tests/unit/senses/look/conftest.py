"""A dictionary whose geometry is known, for the tiny world's teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.models.resolve import load_tokenizer, model_fingerprint, tokenizer_fingerprint
from dskd_ds.senses.dictionary.contexts import Context, contexts_table
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from tests.conftest import TinyWorld
from tests.unit.senses.look.known import COUNTS, POSITIONS, owner_of


@pytest.fixture(scope="session")
def tokenizer(tiny: TinyWorld) -> Any:
    return load_tokenizer(str(tiny.folder / "teacher"))


@pytest.fixture(scope="session")
def dictionary(
    tiny: TinyWorld, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> SenseDictionary:
    """The senses of known.py; `bank money` is a span, happy has synonyms and an antonym."""
    token = {word: owner_of(tokenizer, word) for word in COUNTS}
    words = sorted(COUNTS, key=lambda word: token[word])
    owners = np.array([token[word] for word in words for _ in COUNTS[word]])
    positions = [position for word in words for position in POSITIONS[word]]
    centroids = torch.zeros(len(owners), 32)
    centroids[:, :2] = torch.tensor(positions, dtype=torch.float32)
    senses = Senses(
        owners=owners,
        centroids=centroids,
        counts=np.array([count for word in words for count in COUNTS[word]]),
        spreads=np.linspace(0.1, 1.0, len(owners)).astype(np.float32),
    )
    relations = TokenRelations(
        synonyms={token["happy"]: [token["glad"], 500]},
        antonyms={token["happy"]: [token["sad"]], token["sad"]: [token["happy"]]},
        spans=[(token["bank"], token["money"])],
    )
    facts = {
        "vocab_size": 500,
        "layer": -1,
        "teacher": model_fingerprint(str(tiny.folder / "teacher")),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }
    contexts = [Context(f"text\tbefore {row}", " word", "\nafter") for row in range(len(owners))]
    table = contexts_table(range(len(owners)), [0] * len(owners), contexts)
    folder = tmp_path_factory.mktemp("look") / "senses"
    write_dictionary(
        folder,
        senses=senses,
        relations=relations,
        facts=facts,
        num_senses=4,
        contexts=[table],
    )
    return open_dictionary(folder)
