"""An occurrence of a word -> its nearest sense in a dictionary; how alike two occurrences are by their senses.

Candidates are the senses of the word's token (`own`), or those and the senses of its synonyms (`lexical`, as in docs/method.md,
"Candidates"). Scores of a pair, higher for the same meaning:
  same      1 if both have the same nearest sense, else 0;
  centroid  cosine of their nearest senses;
  soft      cosine of their assignments `softmax(-d / temperature)` over the candidates, d squared distances in units of the
            median distance to the nearest sense; the temperature is the one best on the lemmas set apart for tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.ranks import Floats, auc

TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Candidates = Literal["own", "lexical"]


def candidate_rows(dictionary: SenseDictionary, token: int, candidates: Candidates) -> Tensor:
    """[R] rows of the dictionary that an occurrence of `token` may be assigned to."""
    owners = [token, *(dictionary.synonyms.row(token).tolist() if candidates == "lexical" else ())]
    offsets = dictionary.owner_offsets
    return torch.cat(
        [torch.arange(int(offsets[owner]), int(offsets[owner + 1])) for owner in owners]
    )


def pair_scores(
    dictionary: SenseDictionary,
    tokens: Sequence[int],
    left: Tensor,
    right: Tensor,
    labels: NDArray[np.bool_],
    tuning: NDArray[np.bool_],
    candidates: Candidates,
) -> dict[str, Floats]:
    """`same`, `centroid` and `soft`, each [N].

    tokens: of each pair's word, with senses in the dictionary. left, right: [N, D] states of its occurrences. labels, tuning: [N],
    whether a pair has one meaning and whether the temperature may be chosen by it.
    """
    distances, cosines, same = [], [], []
    for token, two in zip(tokens, torch.stack([left, right], dim=1), strict=True):
        senses = dictionary.senses[candidate_rows(dictionary, token, candidates)].float()
        distances.append(torch.cdist(two, senses).square())
        nearest = senses[distances[-1].argmin(dim=1)]
        same.append(float(torch.equal(*distances[-1].argmin(dim=1))))
        cosines.append(float(torch.cosine_similarity(nearest[0], nearest[1], dim=0)))
    soft = {t: soft_scores(distances, t) for t in TEMPERATURES}
    best = max(
        TEMPERATURES, key=lambda t: np.nan_to_num(auc(soft[t][tuning], labels[tuning]), nan=0.0)
    )
    return {"same": np.array(same), "centroid": np.array(cosines), "soft": soft[best]}


def soft_scores(distances: Sequence[Tensor], temperature: float) -> Floats:
    """Cosines of the two assignments of each pair. distances: N times [2, R], squared."""
    if not distances:
        return np.zeros(0)
    unit = torch.cat([d.min(dim=1).values for d in distances]).median().clamp_min(1e-9)
    shares = [torch.softmax(-d / (unit * temperature), dim=1) for d in distances]
    return np.array([float(torch.cosine_similarity(s[0], s[1], dim=0)) for s in shares])
