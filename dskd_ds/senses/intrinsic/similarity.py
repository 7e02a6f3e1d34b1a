"""Word similarity: do the teacher's states and the senses agree with people's ratings of pairs?

SimLex-999 asks for similarity (`coast` and `shore`), WordSim-353 also for relatedness (`cup` and
`coffee`). Sources: Hill, Reichart, Korhonen, 2015; Finkelstein et al., 2002. Both lists are
contained in the package gensim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.assignment import cosine
from dskd_ds.senses.intrinsic.ranks import Floats, spearman
from dskd_ds.senses.intrinsic.results import Correlation, SimilarityResult, StateCorrelation
from dskd_ds.senses.intrinsic.states import WordInText, word_states
from dskd_ds.senses.intrinsic.vocabulary import Dictionaries, with_senses, word_tokens

CARRIER = "The word is"
"""Text before each word. Without it the word would be the first token, whose state is special in
decoders and says little about the word."""


@dataclass(frozen=True)
class RatedPair:
    """Two words and how similar people find them."""

    left: str
    right: str
    rating: float


def read_ratings(path: Path) -> list[RatedPair]:
    """Read lines of word, word, rating, separated by tabs; `#` begins a comment.

    Raises InputError if a line has another form.
    """
    pairs = []
    for line_number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            pairs.append(RatedPair(fields[0].strip(), fields[1].strip(), float(fields[2])))
        except (IndexError, ValueError):
            raise InputError(
                f"{path}, line {line_number}: {line[:60]!r} is not word, word, rating.\n"
                "  delete the file; it is then fetched again."
            ) from None
    return pairs


def word_similarity(
    teacher: FrozenModel,
    tokenizer: Any,
    ratings: Mapping[str, Sequence[RatedPair]],
    dictionaries: Dictionaries,
    layers: Sequence[int],
) -> dict[str, SimilarityResult]:
    """Return for each list of ratings how well the states at each layer and the senses agree."""
    all_pairs = [pair for pairs in ratings.values() for pair in pairs]
    words = sorted({word for pair in all_pairs for word in (pair.left, pair.right)})
    states = word_states(
        teacher,
        tokenizer,
        words=carried(words),
        layers=layers,
        description="reading rated words",
    )
    # Only `on`: the state before the word has read only the carrier, so all words share it.
    vectors = {layer: dict(zip(words, states[layer].on, strict=True)) for layer in layers}
    tokens = word_tokens(tokenizer, words)
    result: dict[str, SimilarityResult] = {}
    for name, pairs in ratings.items():
        by_layer = []
        for layer in layers:
            found = by_states(pairs, vectors[layer])
            by_layer.append(StateCorrelation(layer, found.spearman, found.num_pairs))
        by_dictionary = {
            key: by_senses(pairs, dictionary, with_senses(dictionary, tokens))
            for key, dictionary in dictionaries.items()
        }
        result[name] = SimilarityResult(states=by_layer, senses=by_dictionary)
    return result


def carried(words: Sequence[str]) -> list[WordInText]:
    """Return each word in a text, behind the carrier."""
    start = len(CARRIER) + 1
    return [WordInText(f"{CARRIER} {word}", start, start + len(word)) for word in words]


def by_states(pairs: Sequence[RatedPair], vectors: Mapping[str, Tensor]) -> Correlation:
    """Return the agreement of the cosine of the words' states.

    vectors: word -> state [D]. Their mean is subtracted, because a decoder's states share one
    large direction.
    """
    mean = torch.stack(list(vectors.values())).mean(dim=0)

    def similarity(left: str, right: str) -> float:
        return cosine(vectors[left] - mean, vectors[right] - mean)

    return _correlate(pairs, similarity)


def by_senses(
    pairs: Sequence[RatedPair], dictionary: SenseDictionary, tokens: Mapping[str, int]
) -> dict[str, Correlation]:
    """Return the agreement of two ways to compare the senses of words.

    `nearest`: the negative distance of their two nearest senses. `mean`: the cosine of the means of
    their senses, from which the mean of all tokens' senses is subtracted.
    tokens: word -> token, of the words that have senses.
    """
    known = [pair for pair in pairs if pair.left in tokens and pair.right in tokens]
    if not known:
        return dict.fromkeys(("nearest", "mean"), Correlation(float("nan"), 0))
    senses = {
        word: dictionary.senses[dictionary.owner_rows(token)].float()
        for word, token in tokens.items()
    }
    centre = dictionary.senses[: dictionary.num_token_rows].float().mean(dim=0)

    def nearest(left: str, right: str) -> float:
        return -float(torch.cdist(senses[left], senses[right]).min())

    def mean(left: str, right: str) -> float:
        return cosine(senses[left].mean(dim=0) - centre, senses[right].mean(dim=0) - centre)

    return {"nearest": _correlate(known, nearest), "mean": _correlate(known, mean)}


def _correlate(pairs: Sequence[RatedPair], similarity: Callable[[str, str], float]) -> Correlation:
    """Return the rank correlation of a similarity with the ratings."""
    scores: Floats = np.array([similarity(pair.left, pair.right) for pair in pairs])
    ratings = np.array([pair.rating for pair in pairs])
    return Correlation(spearman(scores, ratings), len(pairs))
