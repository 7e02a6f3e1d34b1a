"""`dskd senses stats`: measure a dictionary's size, its senses per token, and its relations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.separation import Separation, separation
from dskd_ds.senses.look.forms import words_with_senses

MAX_POLYSEMOUS = 12
"""Words that are listed as the most polysemous ones."""
MIN_VECTORS = 20
"""A token with fewer vectors is not listed: each of its vectors may be a sense by itself."""


@dataclass(frozen=True)
class Polysemous:
    """A token whose senses lie far apart."""

    word: str
    num_senses: int
    num_vectors: int
    dispersion: float
    """Mean squared distance of its senses from their mean, per dimension, weighted by vectors."""


@dataclass(frozen=True)
class Stats:
    """What `dskd senses stats` prints."""

    folder: str
    layer: int
    num_rows: int
    num_token_rows: int
    num_tokens: int
    """Tokens with senses."""
    num_words: int
    """Tokens with senses that are whole words of two letters or more."""
    num_spans: int
    num_vectors: int
    senses_per_token: dict[str, float]
    """Quantiles over the tokens with senses."""
    vectors_per_token: dict[str, float]
    """Quantiles over the tokens with senses."""
    spread: dict[str, float]
    """Quantiles over the senses of two or more vectors; the spread of a single vector is 0."""
    share_of_tokens_with: dict[str, float]
    """Share (0 to 1) of the tokens with senses that have synonyms, antonyms, either."""
    share_of_vectors_with: dict[str, float]
    """Share (0 to 1) of the vectors whose token has synonyms, antonyms, either: about the share of
    positions for which training finds candidates in the lexicons."""
    polysemous: list[Polysemous]
    distances: Separation


@dataclass(frozen=True)
class Columns:
    """Values per token with senses, and per sense. Spans are left out: they have no vectors."""

    tokens: NDArray[np.int64]
    """[T] token ids."""
    senses: NDArray[np.float64]
    """[T] number of senses of each token."""
    vectors: NDArray[np.float64]
    """[T] number of vectors of each token."""
    spreads: NDArray[np.float64]
    """Spread of each sense that was made from two or more vectors."""

    @staticmethod
    def of(dictionary: SenseDictionary) -> Columns:
        """Return the columns of a dictionary."""
        lengths = np.diff(dictionary.owner_offsets[: dictionary.vocab_size + 1])
        tokens = np.flatnonzero(lengths)
        counts = dictionary.sense_counts[: dictionary.num_token_rows]
        vectors = np.zeros(0)
        if len(tokens):
            vectors = np.add.reduceat(counts, dictionary.owner_offsets[tokens])
        spreads = dictionary.sense_spread[: dictionary.num_token_rows].double().numpy()
        return Columns(
            tokens=tokens,
            senses=lengths[tokens].astype(np.float64),
            vectors=vectors.astype(np.float64),
            spreads=spreads[counts >= 2],
        )


def measure(dictionary: SenseDictionary, tokenizer: Any) -> Stats:
    """Return the statistics of a dictionary."""
    columns = Columns.of(dictionary)
    words = words_with_senses(dictionary, tokenizer)
    facts = dictionary.facts
    return Stats(
        folder=str(dictionary.folder),
        layer=dictionary.layer,
        num_rows=int(facts["num_rows"]),
        num_token_rows=dictionary.num_token_rows,
        num_tokens=len(columns.tokens),
        num_words=len(words),
        num_spans=int(facts["num_spans"]),
        num_vectors=int(columns.vectors.sum()),
        senses_per_token=quantiles(columns.senses),
        vectors_per_token=quantiles(columns.vectors),
        spread=quantiles(columns.spreads),
        share_of_tokens_with=_shares(dictionary, columns.tokens, np.ones(len(columns.tokens))),
        share_of_vectors_with=_shares(dictionary, columns.tokens, columns.vectors),
        polysemous=most_polysemous(dictionary, columns, words),
        distances=separation(dictionary),
    )


def quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Return `least, quarter, median, three_quarters, most, mean`; empty if there are no values."""
    if not len(values):
        return {}
    least, quarter, median, three_quarters, most = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    return {
        "least": float(least),
        "quarter": float(quarter),
        "median": float(median),
        "three_quarters": float(three_quarters),
        "most": float(most),
        "mean": float(values.mean()),
    }


def _shares(
    dictionary: SenseDictionary, tokens: NDArray[np.int64], weights: NDArray[np.float64]
) -> dict[str, float]:
    """Return the weighted share (0 to 1) of the tokens with synonyms, antonyms, either."""
    has_synonyms = dictionary.synonyms.lengths()[tokens] > 0
    has_antonyms = dictionary.antonyms.lengths()[tokens] > 0
    total = max(float(weights.sum()), 1e-9)
    return {
        "synonyms": float(weights[has_synonyms].sum()) / total,
        "antonyms": float(weights[has_antonyms].sum()) / total,
        "either": float(weights[has_synonyms | has_antonyms].sum()) / total,
    }


def most_polysemous(
    dictionary: SenseDictionary, columns: Columns, words: Mapping[int, str]
) -> list[Polysemous]:
    """Return the words with the most senses; equal numbers are ordered by dispersion.

    Only words with at least MIN_VECTORS vectors and two senses are listed. words: token -> word.
    If every token has the same number of senses, dispersion alone decides.
    """
    is_word = np.array([token in words for token in columns.tokens], bool)
    listed = is_word & (columns.vectors >= MIN_VECTORS) & (columns.senses > 1)
    tokens, senses, vectors = (
        columns.tokens[listed],
        columns.senses[listed],
        columns.vectors[listed],
    )
    dispersions = dispersion(dictionary, tokens)
    # lexsort sorts by its last key first.
    order = np.lexsort((-dispersions, -senses))[:MAX_POLYSEMOUS]
    found: list[Polysemous] = []
    for i in order:
        item = Polysemous(
            word=words[int(tokens[i])],
            num_senses=int(senses[i]),
            num_vectors=int(vectors[i]),
            dispersion=float(dispersions[i]),
        )
        found.append(item)
    return found


def dispersion(dictionary: SenseDictionary, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [T], the dispersion of each token's senses (see Polysemous)."""
    result = np.zeros(len(tokens))
    for index, token in enumerate(tokens.tolist()):
        rows = dictionary.owner_rows(token)
        weights = torch.from_numpy(dictionary.sense_counts[rows]).float()
        weights = weights / weights.sum()
        senses = dictionary.senses[rows].float()
        from_mean = senses - (weights[:, None] * senses).sum(dim=0)
        result[index] = float((weights * from_mean.square().mean(dim=1)).sum())
    return result


def as_json(stats: Stats) -> dict[str, Any]:
    """Return the statistics as JSON-serializable values."""
    return asdict(stats)
