"""Are synonyms' senses nearer than antonyms' and strangers'? The sense term pulls to the first and pushes from the second.

The distance of two tokens is that of their two nearest senses, per dimension. Strangers are the synonym pairs' own tokens dealt
anew, so that neither how frequent a token is nor how many senses it has tells the groups apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.lexicon.relations import Ragged
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.ranks import Floats, auc

MAX_PAIRS = 3000
"""Pairs of each kind that are measured."""


@dataclass(frozen=True)
class Separation:
    """How well distances tell the kinds of pairs apart; 0.5 is chance."""

    num_synonym_pairs: int
    num_antonym_pairs: int
    median_synonym_distance: float
    """Squared, per dimension; so are the next two."""
    median_antonym_distance: float
    median_stranger_distance: float
    synonyms_below_antonyms: float
    """AUC: how likely a synonym pair is nearer than an antonym pair."""
    synonyms_below_strangers: float
    antonyms_below_strangers: float
    """Usually well above 0.5: antonyms are used in the same contexts."""


def separation(dictionary: SenseDictionary) -> Separation:
    """Measure a dictionary by its own relations. Numbers are NaN where it has no pairs of a kind."""
    near, far, strangers = pair_distances(dictionary)
    return Separation(
        len(near),
        len(far),
        _median(near),
        _median(far),
        _median(strangers),
        _below(near, far),
        _below(near, strangers),
        _below(far, strangers),
    )


def pair_distances(dictionary: SenseDictionary) -> tuple[Floats, Floats, Floats]:
    """Distances of the pairs of synonyms, of antonyms, and of strangers; the same draw each time."""
    generator = np.random.default_rng(0)
    synonyms, antonyms = (
        related_pairs(dictionary, table, generator)
        for table in (dictionary.synonyms, dictionary.antonyms)
    )
    strangers = _dealt_anew(dictionary, synonyms, generator)
    near, far, unrelated = (
        nearest_distances(dictionary, pairs) for pairs in (synonyms, antonyms, strangers)
    )
    return near, far, unrelated


def related_pairs(
    dictionary: SenseDictionary, table: Ragged, generator: np.random.Generator
) -> NDArray[np.int64]:
    """[P, 2] pairs of tokens with senses, each pair once whichever way round; at most MAX_PAIRS, drawn evenly."""
    tokens = np.repeat(np.arange(len(table.offsets) - 1), table.lengths())
    pairs = np.unique(np.sort(np.stack([tokens, table.values], axis=1), axis=1), axis=0)
    lengths = np.diff(dictionary.owner_offsets)
    pairs = pairs[(lengths[pairs] > 0).all(axis=1) & (pairs < dictionary.vocab_size).all(axis=1)]
    return np.asarray(pairs[generator.permutation(len(pairs))[:MAX_PAIRS]], np.int64)


def _dealt_anew(
    dictionary: SenseDictionary, pairs: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """The same tokens in pairs that no relation joins."""
    mixed = np.stack([pairs[:, 0], generator.permutation(pairs[:, 1])], axis=1)
    unrelated = [
        left != right
        and right not in dictionary.synonyms.row(left)
        and right not in dictionary.antonyms.row(left)
        and left not in dictionary.synonyms.row(right)
        for left, right in mixed
    ]
    return np.asarray(mixed[np.array(unrelated, bool)], np.int64)


def nearest_distances(dictionary: SenseDictionary, pairs: NDArray[np.int64]) -> Floats:
    """[P, 2] owners -> [P] squared distance per dimension of their two nearest senses."""
    offsets = dictionary.owner_offsets
    result = np.empty(len(pairs))
    for number, (left, right) in enumerate(pairs):
        a, b = (
            dictionary.senses[int(offsets[o]) : int(offsets[o + 1])].float() for o in (left, right)
        )
        result[number] = float(torch.cdist(a, b).min().square()) / dictionary.hidden_size
    return result


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _below(near: Floats, far: Floats) -> float:
    scores = -np.concatenate([near, far])
    return auc(scores, np.arange(len(scores)) < len(near))
