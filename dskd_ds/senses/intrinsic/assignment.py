"""Assign occurrences of a word to senses, and score how similar two occurrences are.

The candidates are the senses of the word's token (`own`), or these and the senses of its synonyms
(`lexical`, as in docs/method.md, "Candidates"). Three scores of a pair are computed; a higher
score means that the meanings are more likely the same:

- `same`: 1 if both occurrences have the same nearest sense, else 0;
- `centroid`: cosine of their nearest senses;
- `soft`: cosine of their assignments `softmax(-d / temperature)` over the candidates. d are the
  squared distances, in units of the median distance to the nearest sense; the temperature is the
  one that is best for the lemmas reserved for tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.ranks import Bools, Floats, auc

TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Candidates = Literal["own", "lexical"]


@dataclass(frozen=True)
class PairStates:
    """N pairs of occurrences of a word, with their states at the dictionary's layer."""

    tokens: Sequence[int]
    """[N] token of each pair's word, which has senses in the dictionary."""
    left: Tensor
    """[N, D] states of the first occurrences."""
    right: Tensor
    """[N, D] states of the second occurrences."""
    labels: Bools
    """[N] whether both occurrences have the same meaning."""
    is_tuning: Bools
    """[N] whether the pair may be used to choose the temperature."""


def candidate_rows(dictionary: SenseDictionary, token: int, candidates: Candidates) -> Tensor:
    """Return [R], the dictionary rows that an occurrence of `token` may be assigned to."""
    owners = [token]
    if candidates == "lexical":
        owners += dictionary.synonyms.row(token).tolist()
    spans = [dictionary.owner_rows(owner) for owner in owners]
    return torch.cat([torch.arange(span.start, span.stop) for span in spans])


def pair_scores(
    dictionary: SenseDictionary, pairs: PairStates, candidates: Candidates
) -> dict[str, Floats]:
    """Return the scores `same`, `centroid` and `soft` of the pairs, each [N]."""
    distances, cosines, same = [], [], []
    both_sides = torch.stack([pairs.left, pairs.right], dim=1)
    for token, states in zip(pairs.tokens, both_sides, strict=True):
        senses = dictionary.senses[candidate_rows(dictionary, token, candidates)].float()
        squared = torch.cdist(states, senses).square()
        left, right = squared.argmin(dim=1).tolist()
        distances.append(squared)
        same.append(float(left == right))
        cosines.append(cosine(senses[left], senses[right]))
    soft = {t: soft_scores(distances, t) for t in TEMPERATURES}

    def tuning_auc(temperature: float) -> float:
        # NaN (pairs of one kind only) would compare as neither larger nor smaller.
        scores = soft[temperature][pairs.is_tuning]
        return float(np.nan_to_num(auc(scores, pairs.labels[pairs.is_tuning]), nan=0.0))

    best = max(TEMPERATURES, key=tuning_auc)
    return {"same": np.array(same), "centroid": np.array(cosines), "soft": soft[best]}


def soft_scores(distances: Sequence[Tensor], temperature: float) -> Floats:
    """Return [N], the cosine of the two soft assignments of each pair.

    distances: for each pair [2, R], the squared distances of its occurrences from the candidates.
    """
    if not distances:
        return np.zeros(0)
    nearest = torch.cat([squared.min(dim=1).values for squared in distances])
    unit = nearest.median().clamp_min(1e-9)
    shares = [torch.softmax(-squared / (unit * temperature), dim=1) for squared in distances]
    return np.array([cosine(left, right) for left, right in shares])


def cosine(left: Tensor, right: Tensor) -> float:
    """Return the cosine of two vectors [D]."""
    return float(torch.cosine_similarity(left, right, dim=0))
