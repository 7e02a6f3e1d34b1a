"""People's ratings: the file, and the correlation with the cosine of states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.errors import InputError
from dskd_ds.senses.intrinsic.similarity import RatedPair, by_states, read_ratings

LINES = [
    "# a comment",
    "# Word 1\tWord 2\tHuman",
    "bank\tmoney\t9.0",
    "bank\triver\t5.5",
    "bank\tcold\t0.5",
    "bank\tqqq\t3",
]


def test_ratings_and_their_correlation(tmp_path: Path) -> None:
    path = tmp_path / "ratings.txt"
    path.write_text("\n".join(LINES) + "\n")
    pairs = read_ratings(path)
    assert pairs[1] == RatedPair("bank", "river", 5.5)
    angles = {"bank": 0.0, "money": 0.3, "river": 1.0, "cold": 3.0, "qqq": 2.0}
    vectors = {word: torch.tensor([np.cos(a), np.sin(a)]) for word, a in angles.items()}
    assert by_states(pairs, vectors).num_pairs == 4


def test_a_line_of_another_form_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "ratings.txt"
    path.write_text("bank\tmoney\n")
    with pytest.raises(InputError, match="line 1: 'bank\\\\tmoney' is not word, word, rating"):
        read_ratings(path)
