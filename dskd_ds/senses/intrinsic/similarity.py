"""How alike people find two words (SimLex-999, WordSim-353), against how alike the teacher's states and the senses are.

SimLex asks for similarity (`coast` and `shore`), WordSim also for relatedness (`cup` and `coffee`). Sources: Hill, Reichart,
Korhonen, 2015; Finkelstein et al., 2002. Both lists come with the package gensim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.ranks import Floats, spearman

CARRIER = "The word is"
"""A word alone would be a text's first token, whose state a decoder spends on other things."""


@dataclass(frozen=True)
class RatedPair:
    """Two words and how alike people find them."""

    left: str
    right: str
    rating: float


@dataclass(frozen=True)
class Correlation:
    """Agreement with people."""

    spearman: float
    num_pairs: int
    """Pairs of which both words could be looked up."""


def read_ratings(path: Path) -> list[RatedPair]:
    """Lines of word, word, rating, separated by tabs; `#` begins a comment. Raises InputError."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            pairs.append(RatedPair(fields[0].strip(), fields[1].strip(), float(fields[2])))
        except (IndexError, ValueError):
            raise InputError(
                f"{path}, line {number}: {line[:60]!r} is not word, word, rating.\n  delete the file; it is fetched again."
            ) from None
    return pairs


def carried(words: Sequence[str]) -> list[tuple[str, int, int]]:
    """Each word behind the carrier, as word_states wants it."""
    start = len(CARRIER) + 1
    return [(f"{CARRIER} {word}", start, start + len(word)) for word in words]


def by_states(pairs: Sequence[RatedPair], vectors: dict[str, Tensor]) -> Correlation:
    """Cosine of the words' states, about the mean state of all of them (a decoder's states share one large direction)."""
    mean = torch.stack(list(vectors.values())).mean(dim=0)
    return _correlate(
        pairs, lambda left, right: _cosine(vectors[left] - mean, vectors[right] - mean)
    )


def by_senses(
    pairs: Sequence[RatedPair], dictionary: SenseDictionary, tokens: dict[str, int]
) -> dict[str, Correlation]:
    """`nearest`: minus the distance of the words' two nearest senses; `mean`: cosine of their senses' means, about the mean sense.

    tokens: of the words that have senses.
    """
    known = [pair for pair in pairs if pair.left in tokens and pair.right in tokens]
    offsets = dictionary.owner_offsets
    rows = {
        word: dictionary.senses[int(offsets[token]) : int(offsets[token + 1])].float()
        for word, token in tokens.items()
    }
    if not known:
        return dict.fromkeys(("nearest", "mean"), Correlation(float("nan"), 0))
    centre = dictionary.senses[: dictionary.num_token_rows].float().mean(dim=0)
    return {
        "nearest": _correlate(
            known, lambda left, right: -float(torch.cdist(rows[left], rows[right]).min())
        ),
        "mean": _correlate(
            known,
            lambda left, right: _cosine(
                rows[left].mean(dim=0) - centre, rows[right].mean(dim=0) - centre
            ),
        ),
    }


def _correlate(pairs: Sequence[RatedPair], alike: Callable[[str, str], float]) -> Correlation:
    scores: Floats = np.array([alike(pair.left, pair.right) for pair in pairs])
    return Correlation(spearman(scores, np.array([pair.rating for pair in pairs])), len(pairs))


def _cosine(left: Tensor, right: Tensor) -> float:
    return float(torch.cosine_similarity(left, right, dim=0))
