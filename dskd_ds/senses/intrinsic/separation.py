"""Measure whether senses of synonyms are nearer than those of antonyms and unrelated words.

The sense term pulls towards synonyms' senses and pushes away from antonyms'. The distance of two
tokens is that of their two nearest senses, per dimension. The unrelated pairs ("strangers") are
the tokens of the synonym pairs, paired anew: this way the groups differ neither in the frequency
of their tokens nor in their number of senses.
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
    """How well distances distinguish the kinds of pairs. An AUC of 0.5 is chance."""

    num_synonym_pairs: int
    num_antonym_pairs: int
    median_synonym_distance: float
    """Squared distance per dimension."""
    median_antonym_distance: float
    """Squared distance per dimension."""
    median_stranger_distance: float
    """Squared distance per dimension."""
    synonyms_below_antonyms: float
    """AUC: the probability that a synonym pair is nearer than an antonym pair."""
    synonyms_below_strangers: float
    """AUC: the probability that a synonym pair is nearer than an unrelated pair."""
    antonyms_below_strangers: float
    """AUC: the probability that an antonym pair is nearer than an unrelated pair. Usually well
    above 0.5, because antonyms are used in the same contexts."""


def separation(dictionary: SenseDictionary) -> Separation:
    """Measure a dictionary by its own relations.

    A value is NaN if the dictionary has no pairs of a kind that it needs.
    """
    synonyms, antonyms, strangers = pair_distances(dictionary)
    return Separation(
        num_synonym_pairs=len(synonyms),
        num_antonym_pairs=len(antonyms),
        median_synonym_distance=_median(synonyms),
        median_antonym_distance=_median(antonyms),
        median_stranger_distance=_median(strangers),
        synonyms_below_antonyms=_auc_below(synonyms, antonyms),
        synonyms_below_strangers=_auc_below(synonyms, strangers),
        antonyms_below_strangers=_auc_below(antonyms, strangers),
    )


def pair_distances(dictionary: SenseDictionary) -> tuple[Floats, Floats, Floats]:
    """Return the distances of synonym, antonym and unrelated pairs; every call draws the same."""
    generator = np.random.default_rng(0)
    synonyms = related_pairs(dictionary, dictionary.synonyms, generator)
    antonyms = related_pairs(dictionary, dictionary.antonyms, generator)
    strangers = _paired_anew(dictionary, synonyms, generator)
    return (
        nearest_distances(dictionary, synonyms),
        nearest_distances(dictionary, antonyms),
        nearest_distances(dictionary, strangers),
    )


def related_pairs(
    dictionary: SenseDictionary, table: Ragged, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return [P, 2], the related pairs of tokens that both have senses.

    A pair appears once, in one direction. At most MAX_PAIRS pairs are drawn, all equally likely.
    """
    # A pair can be in the rows of both its tokens.
    tokens = np.repeat(np.arange(len(table.offsets) - 1), table.lengths())
    ordered = np.sort(np.stack([tokens, table.values], axis=1), axis=1)
    pairs = np.unique(ordered, axis=0)
    num_senses = np.diff(dictionary.owner_offsets)
    have_senses = (num_senses[pairs] > 0).all(axis=1)
    are_tokens = (pairs < dictionary.vocab_size).all(axis=1)
    pairs = pairs[have_senses & are_tokens]
    drawn = generator.permutation(len(pairs))[:MAX_PAIRS]
    return np.asarray(pairs[drawn], np.int64)


def _paired_anew(
    dictionary: SenseDictionary, pairs: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return the same tokens in new pairs [Q, 2]; pairs that happen to be related are dropped."""
    mixed = np.stack([pairs[:, 0], generator.permutation(pairs[:, 1])], axis=1)
    is_unrelated = [_are_unrelated(dictionary, left, right) for left, right in mixed]
    return np.asarray(mixed[np.array(is_unrelated, bool)], np.int64)


def _are_unrelated(dictionary: SenseDictionary, left: int, right: int) -> bool:
    """Return whether two tokens differ and the dictionary has no relation between them.

    Both directions count: a list that was thinned may lack a token whose own list has the other.
    """
    return left != right and all(
        right not in table.row(left) and left not in table.row(right)
        for table in (dictionary.synonyms, dictionary.antonyms)
    )


def nearest_distances(dictionary: SenseDictionary, pairs: NDArray[np.int64]) -> Floats:
    """Return [P], the squared distance per dimension of the nearest senses of each pair [P, 2]."""
    result = np.empty(len(pairs))
    for index, (left, right) in enumerate(pairs):
        senses_of_left = dictionary.senses[dictionary.owner_rows(left)].float()
        senses_of_right = dictionary.senses[dictionary.owner_rows(right)].float()
        distances = torch.cdist(senses_of_left, senses_of_right)
        result[index] = float(distances.min().square()) / dictionary.hidden_size
    return result


def _median(values: Floats) -> float:
    """Return the median, or NaN if there are no values."""
    return float(np.median(values)) if len(values) else float("nan")


def _auc_below(near: Floats, far: Floats) -> float:
    """Return the probability that a value of `near` is below a value of `far`."""
    scores = -np.concatenate([near, far])
    return auc(scores, np.arange(len(scores)) < len(near))
