"""Numbers of senses against WordNet's numbers of meanings, on a known dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.senses.intrinsic.polysemy import num_meanings, polysemy
from tests.unit.senses.intrinsic.known import LEMMAS


def write_wordnet(folder: Path, meanings: dict[str, int]) -> Path:
    """Write WordNet files in which each word has this many synsets, as a noun and an adjective."""
    folder.mkdir()
    lines: dict[str, list[str]] = {"noun": [], "verb": [], "adj": [], "adv": []}
    for word, count in meanings.items():
        for number in range(count):
            pos, name = ("noun", word.title()) if number % 2 else ("adj", f"{word}(a)")
            lines[pos].append(f"{number:08d} 03 n 02 {name} 0 hot_{word} 0 000 | a meaning")
    for pos, of_pos in lines.items():
        (folder / f"data.{pos}").write_text("\n".join(["  1 the licence", *of_pos]) + "\n")
    return folder


def dictionary_with(
    folder: Path, counts: dict[int, int], vectors: dict[int, int]
) -> SenseDictionary:
    """Write a dictionary with this many senses per token, and vectors per sense."""
    tokens = sorted(counts)
    owners = np.repeat(tokens, [counts[token] for token in tokens])
    senses = Senses(
        owners, torch.randn(len(owners), 8), np.array([vectors[token] for token in owners])
    )
    facts = {"vocab_size": 500, "layer": -1}
    relations = TokenRelations({}, {}, [])
    write_dictionary(folder, senses=senses, relations=relations, facts=facts, num_senses=9)
    return open_dictionary(folder)


def test_meanings_are_counted_over_all_parts_of_speech(tmp_path: Path) -> None:
    wanted = {"bank": 5, "river": 1, "cold": 2}
    assert num_meanings(write_wordnet(tmp_path / "wordnet", wanted)) == wanted


def test_senses_that_follow_meanings_correlate(tokenizer: Any, tmp_path: Path) -> None:
    words = LEMMAS[:6]
    tokens = [tokenizer(f" {word}")["input_ids"][0] for word in words]
    meanings = dict(zip(words, (1, 2, 3, 4, 5, 6), strict=True)) | {"unheard of": 9}
    senses = dict(zip(tokens, (1, 2, 3, 4, 5, 6), strict=True))
    few = dict(zip(tokens, (9, 7, 8, 3, 2, 9), strict=True))
    found = polysemy(dictionary_with(tmp_path / "same", senses, few), tokenizer, meanings)
    assert (found.num_words, found.spearman) == (6, pytest.approx(1))
    reverse = dict(zip(tokens, (6, 5, 4, 3, 2, 1), strict=True))
    found = polysemy(dictionary_with(tmp_path / "reverse", reverse, few), tokenizer, meanings)
    assert found.spearman == pytest.approx(-1)


def test_frequency_alone_explains_nothing_at_equal_frequency(
    tokenizer: Any, tmp_path: Path
) -> None:
    """Senses and meanings follow the frequency, and else vary against each other."""
    words = LEMMAS[:6]
    tokens = [tokenizer(f" {word}")["input_ids"][0] for word in words]
    meanings = dict(zip(words, (1, 2, 4, 3, 5, 6), strict=True))
    senses = dict(zip(tokens, (2, 1, 3, 4, 6, 5), strict=True))
    vectors = dict.fromkeys(tokens, 10)  # per sense: the most senses have the most vectors
    vectors |= {tokens[0]: 4, tokens[4]: 8}
    found = polysemy(dictionary_with(tmp_path / "senses", senses, vectors), tokenizer, meanings)
    assert found.spearman > 0.7
    assert found.spearman_at_equal_frequency < 0
