"""Separation, on a dictionary in which synonyms lie together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.senses.intrinsic.separation import pair_distances, separation

ANTONYMS = {token: [(token + 7) % 40] for token in range(0, 40, 4)}


def paired_dictionary(folder: Path, antonyms: dict[int, list[int]] = ANTONYMS) -> SenseDictionary:
    """Write a dictionary of 40 tokens with one sense each.

    Tokens 2i and 2i + 1 are synonyms and lie together. antonyms: by default of every fourth token.
    """
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(20, 8, generator=generator)
    noise = 0.1 * torch.randn(40, 8, generator=generator)
    senses = Senses(
        np.arange(40), centres.repeat_interleave(2, dim=0) + noise, np.ones(40, np.int64)
    )
    synonyms = {token: [token ^ 1] for token in range(40)}
    relations = TokenRelations(synonyms, antonyms, [])
    write_dictionary(
        folder,
        senses=senses,
        relations=relations,
        facts={"vocab_size": 40, "layer": -1},
        num_senses=4,
    )
    return open_dictionary(folder)


def test_synonyms_are_nearer(tmp_path: Path) -> None:
    found = separation(paired_dictionary(tmp_path / "senses"))
    assert (found.num_synonym_pairs, found.num_antonym_pairs) == (20, 10)
    assert found.synonyms_below_antonyms == 1.0
    assert found.synonyms_below_strangers > 0.9


def test_antonyms_of_either_direction_are_no_strangers(tmp_path: Path) -> None:
    """A thinned list may lack a token whose own list has the other."""
    evens, odds = range(0, 40, 2), range(1, 40, 2)
    for name, tokens, others in (("forth", evens, odds), ("back", odds, evens)):
        antonyms = {token: [other for other in others if other != token ^ 1] for token in tokens}
        _, of_antonyms, of_strangers = pair_distances(paired_dictionary(tmp_path / name, antonyms))
        assert (len(of_antonyms), len(of_strangers)) == (380, 0)


def test_distances_are_squared_and_per_dimension(tmp_path: Path) -> None:
    dictionary = paired_dictionary(tmp_path / "senses")
    rows = dictionary.senses.float()
    expected = sorted(float((rows[2 * i] - rows[2 * i + 1]).square().mean()) for i in range(20))
    of_synonyms = sorted(pair_distances(dictionary)[0])
    np.testing.assert_allclose(of_synonyms, expected, rtol=1e-3, atol=1e-5)
