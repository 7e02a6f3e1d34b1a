"""`dskd senses stats`: numbers, text and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.stats import measure
from dskd_ds.senses.look.stats_picture import draw
from dskd_ds.senses.look.stats_text import render
from tests.unit.senses.look.known import COUNTS, POSITIONS


def test_sizes_and_quantiles(dictionary: SenseDictionary, tokenizer: Any) -> None:
    found = measure(dictionary, tokenizer)
    assert (found.num_tokens, found.num_words, found.num_token_rows) == (6, 6, 12)
    assert found.num_vectors == sum(sum(counts) for counts in COUNTS.values())
    assert found.senses_per_token == {
        "least": 1,
        "quarter": 2,
        "median": 2,
        "three_quarters": 2,
        "most": 3,
        "mean": 2,
    }
    assert "bank" in render(found)


def test_shares_with_relations(dictionary: SenseDictionary, tokenizer: Any) -> None:
    found = measure(dictionary, tokenizer)
    shares = {"synonyms": 1 / 6, "antonyms": 2 / 6, "either": 2 / 6}
    assert found.share_of_tokens_with == pytest.approx(shares)
    assert found.share_of_vectors_with["antonyms"] == pytest.approx(5 / found.num_vectors)
    assert found.distances.median_antonym_distance == pytest.approx(16 / 32)


def test_the_most_polysemous_words(dictionary: SenseDictionary, tokenizer: Any) -> None:
    found = measure(dictionary, tokenizer)
    assert [item.word for item in found.polysemous] == ["bank", "glad"]
    positions = np.array(POSITIONS["bank"], float)
    weights = np.array(COUNTS["bank"]) / sum(COUNTS["bank"])
    from_mean = positions - weights @ positions
    dispersion = weights @ (from_mean**2).sum(axis=1) / 32
    assert found.polysemous[0].dispersion == pytest.approx(dispersion, rel=1e-5)


def test_the_picture_is_a_png(dictionary: SenseDictionary, tmp_path: Path) -> None:
    draw(dictionary, tmp_path / "stats.png")
    assert (tmp_path / "stats.png").read_bytes()[1:4] == b"PNG"
