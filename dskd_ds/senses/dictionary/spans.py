"""Composes the senses of spans (words of several tokens) from the senses of their tokens.

Source: docs/method.md, "Spans".
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.senses.dictionary.senses import Senses


def span_lengths(
    spans: list[tuple[int, ...]], token_lengths: NDArray[np.int64], num_senses: int
) -> NDArray[np.int64]:
    """Return how many senses compose_spans will give each span.

    token_lengths: [vocab_size] number of senses of each token.
    """
    lengths = np.zeros(len(spans), np.int64)
    for index, span in enumerate(spans):
        if all(token_lengths[token] for token in span):
            lengths[index] = min(num_senses, token_lengths[span[0]])
    return lengths


def compose_spans(
    spans: list[tuple[int, ...]], senses: Senses, num_senses: int
) -> tuple[Tensor, list[int]]:
    """Compose the senses of spans.

    Each sense of the first token is averaged with the nearest sense of every further token
    (docs/method.md, "Spans").
    Returns rows [R, D] float32, and how many rows each span has: 0 if a token of it has no senses.
    """
    # Senses are sorted by owner, so the rows of a token are contiguous.
    owners, starts, counts = np.unique(senses.owners, return_index=True, return_counts=True)
    ends = starts + counts
    rows_of = {
        token: slice(start, end)
        for token, start, end in zip(owners.tolist(), starts.tolist(), ends.tolist(), strict=True)
    }
    rows: list[Tensor] = []
    lengths = []
    for span in spans:
        if any(token not in rows_of for token in span):
            lengths.append(0)
            continue
        # One running mean per sense of the first token, [n, D].
        mean = senses.centroids[rows_of[span[0]]][:num_senses].float()
        for num_averaged, token in enumerate(span[1:], start=1):
            candidates = senses.centroids[rows_of[token]].float()
            nearest = candidates[torch.cdist(mean, candidates).argmin(dim=1)]
            mean = (mean * num_averaged + nearest) / (num_averaged + 1)
        rows.append(mean)
        lengths.append(len(mean))
    return (torch.cat(rows) if rows else senses.centroids[:0].float()), lengths
