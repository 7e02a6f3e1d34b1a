"""Senses of spans, composed from the senses of their tokens."""

from __future__ import annotations

import numpy as np
import torch

from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.spans import compose_spans, span_lengths


def test_each_sense_is_averaged_with_the_nearest_of_the_next_token() -> None:
    senses = Senses(
        owners=np.array([3, 3, 4, 4]),
        centroids=torch.tensor([[0.0], [10.0], [1.0], [8.0]]),
        counts=np.ones(4, np.int64),
    )
    rows, lengths = compose_spans([(3, 4), (3, 99)], senses, 4)
    assert lengths == [2, 0]
    assert rows.flatten().tolist() == [0.5, 9.0]


def test_span_lengths_predict_what_is_composed() -> None:
    senses = Senses(
        owners=np.array([0, 0, 0, 1, 3]),
        centroids=torch.arange(10.0).view(5, 2),
        counts=np.ones(5, np.int64),
    )
    spans = [(0, 1), (1, 0), (0, 2), (3, 3, 0), (2, 0)]
    _, lengths = compose_spans(spans, senses, 2)
    assert lengths == [2, 1, 0, 1, 0]
    assert span_lengths(spans, np.array([3, 1, 0, 1]), 2).tolist() == lengths
