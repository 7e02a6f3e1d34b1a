"""Known material for measuring senses: example sentences in WordNet's format, and a dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from tests.conftest import WORDS

LEMMAS = [word for word in WORDS if len(word) > 3]


def write_examples(folder: Path) -> Path:
    """Write WordNet files in which every word of LEMMAS has two synsets with three examples each.

    Returns the folder.
    """
    folder.mkdir()
    for pos, letter in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        lines = ["  1 the licence"]
        for lemma_index, lemma in enumerate(LEMMAS if pos == "noun" else []):
            for sense in range(2):
                first = 7 * lemma_index + 3 * sense
                fillers = [WORDS[(first + i) % len(WORDS)] for i in range(3)]
                examples = "; ".join(f'"{filler} and {lemma} in"' for filler in fillers)
                offset = lemma_index * 10 + sense
                facts = f"{offset:08d} {3 + sense:02d} {letter} 02 {lemma} 0 hot_{lemma} 0 000"
                lines.append(f"{facts} | a meaning; {examples}")
        (folder / f"data.{pos}").write_text("\n".join(lines) + "\n")
    (folder / "noun.exc").write_text("cities city\n")
    return folder


def known_dictionary(
    folder: Path, facts: Mapping[str, object], tokens: Sequence[int]
) -> SenseDictionary:
    """Write a dictionary of 32 dimensions in which each token has two opposite senses.

    They lie at +10 and -10 of a dimension that belongs to the token. Tokens 2i and 2i + 1 of the
    sorted list are synonyms.
    """
    tokens = sorted(tokens)
    centroids = torch.zeros(2 * len(tokens), 32)
    for i in range(len(tokens)):
        centroids[2 * i, i % 32] = 10.0
        centroids[2 * i + 1, i % 32] = -10.0
    synonyms = {token: [tokens[i ^ 1]] for i, token in enumerate(tokens) if i ^ 1 < len(tokens)}
    antonyms = {token: [tokens[-1 - i]] for i, token in enumerate(tokens)}
    write_dictionary(
        folder,
        senses=Senses(np.repeat(tokens, 2), centroids, np.full(2 * len(tokens), 3)),
        relations=TokenRelations(synonyms, antonyms, []),
        facts={"vocab_size": 500, "layer": -1, **facts},
        num_senses=4,
    )
    return open_dictionary(folder)
