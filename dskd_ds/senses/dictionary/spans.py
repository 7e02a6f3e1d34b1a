"""Senses of spans: related words of several tokens, composed from their tokens' senses (docs/method.md, "Spans")."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.senses.dictionary.senses import Senses


def span_lengths(
    spans: list[tuple[int, ...]], token_lengths: NDArray[Any], num_senses: int
) -> NDArray[np.int64]:
    """How many senses compose_spans gives each span, from how many each token has [vocab_size]."""
    return np.array(
        [
            min(num_senses, token_lengths[span[0]])
            if all(token_lengths[token] for token in span)
            else 0
            for span in spans
        ],
        np.int64,
    )


def compose_spans(
    spans: list[tuple[int, ...]], senses: Senses, num_senses: int
) -> tuple[Tensor, list[int]]:
    """Senses of spans: each sense of the first token, averaged with the nearest sense of every further token (docs/method.md, "Spans").

    Returns rows [R, D] float32 and how many each span got: 0 where one of its tokens has no senses.
    """
    owners, starts, counts = np.unique(senses.owners, return_index=True, return_counts=True)
    where = {
        int(o): slice(int(s), int(s + n)) for o, s, n in zip(owners, starts, counts, strict=True)
    }
    rows: list[Tensor] = []
    lengths = []
    for span in spans:
        if any(token not in where for token in span):
            lengths.append(0)
            continue
        mean = senses.centroids[where[span[0]]][:num_senses].float()
        for used, token in enumerate(span[1:], start=1):
            candidates = senses.centroids[where[token]].float()
            nearest = candidates[torch.cdist(mean, candidates).argmin(dim=1)]
            mean = (mean * used + nearest) / (used + 1)
        rows.append(mean)
        lengths.append(len(mean))
    return (torch.cat(rows) if rows else senses.centroids[:0].float()), lengths
