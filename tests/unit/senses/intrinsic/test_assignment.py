"""Assigning occurrences to senses, on a dictionary whose senses are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.senses.intrinsic.assignment import (
    PairStates,
    candidate_rows,
    pair_scores,
    soft_scores,
)
from dskd_ds.senses.intrinsic.ranks import auc
from tests.unit.senses.intrinsic.known import known_dictionary


def test_candidates_are_the_senses_of_the_word_and_of_its_synonyms(tmp_path: Path) -> None:
    dictionary = known_dictionary(tmp_path / "senses", {}, [3, 8, 20])
    assert candidate_rows(dictionary, 8, "own").tolist() == [2, 3]
    assert candidate_rows(dictionary, 8, "lexical").tolist() == [2, 3, 0, 1]


def test_occurrences_are_assigned_to_their_nearest_sense(tmp_path: Path) -> None:
    dictionary = known_dictionary(tmp_path / "senses", {}, [3, 8, 20])
    near = torch.eye(32)[:3] * 8
    labels = np.array([True] * 3 + [False] * 3)
    pairs = PairStates(
        tokens=[3, 8, 20] * 2,
        left=torch.cat([near, near]),
        right=torch.cat([near + 0.1, -near]),
        labels=labels,
        is_tuning=np.array([True, False, True] * 2),
    )
    scores = pair_scores(dictionary, pairs, "own")
    assert scores["same"].tolist() == [1, 1, 1, 0, 0, 0]
    np.testing.assert_allclose(scores["centroid"], [1, 1, 1, -1, -1, -1], atol=1e-6)
    assert auc(scores["soft"], labels) == 1.0


def test_soft_scores_by_hand() -> None:
    distances = [torch.tensor([[1.0, 3.0], [2.0, 1.0]])]  # both nearest are 1, so the unit is 1
    left = np.exp([-1 / 0.5, -3 / 0.5])
    right = np.exp([-2 / 0.5, -1 / 0.5])
    left, right = left / left.sum(), right / right.sum()
    cosine = left @ right / np.sqrt((left @ left) * (right @ right))
    assert soft_scores(distances, 0.5)[0] == pytest.approx(cosine, rel=1e-5)
