"""Word in context: do states and senses show whether a word has the same meaning in two texts?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dskd_ds.errors import InputError
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.assignment import Candidates, PairStates, pair_scores
from dskd_ds.senses.intrinsic.examples import Occurrence, Pair, build_pairs
from dskd_ds.senses.intrinsic.ranks import Bools, Floats, auc, auc_error
from dskd_ds.senses.intrinsic.results import ContextResult, SenseArea, StateArea
from dskd_ds.senses.intrinsic.states import (
    POSITIONS,
    Position,
    WordInText,
    WordStates,
    num_layers,
    word_states,
)
from dskd_ds.senses.intrinsic.vocabulary import Dictionaries, with_senses, word_tokens

CANDIDATES: tuple[Candidates, ...] = ("own", "lexical")


def context_pairs(occurrences: Sequence[Occurrence], tokenizer: Any, max_pairs: int) -> list[Pair]:
    """Return pairs of occurrences of words that are one token, because only those have senses.

    Raises InputError if there are no pairs for tuning, or none to score.
    """
    tokens = word_tokens(tokenizer, sorted({item.lemma for item in occurrences}))
    pairs = build_pairs([item for item in occurrences if item.lemma in tokens], max_pairs)
    num_tuning = sum(pair.for_tuning for pair in pairs)
    if num_tuning == 0 or num_tuning == len(pairs):
        raise InputError(
            f"WordNet's example sentences give {len(pairs)} pairs of contexts for words that are"
            " one token of this teacher: too few.\n"
            "  raise --pairs, or leave this part out: --only separation --only similarity"
        )
    return pairs


def word_in_context(
    teacher: FrozenModel,
    tokenizer: Any,
    pairs: Sequence[Pair],
    dictionaries: Dictionaries,
    layers: Sequence[int],
) -> ContextResult:
    """Return how well pairs of one meaning are told from pairs of two, by states and by senses.

    layers: those whose states are compared. Senses are assigned at the layer of their dictionary.
    """
    last = num_layers(teacher)
    # Layers of dictionaries may count from the end; -1 becomes the last layer.
    layer_of = {name: dictionary.layer % (last + 1) for name, dictionary in dictionaries.items()}
    needed_layers = sorted({*layers, *layer_of.values()})
    scored = ScoredPairs.read(teacher, tokenizer, pairs=pairs, layers=needed_layers)
    tokens = word_tokens(tokenizer, sorted({pair.lemma for pair in pairs}))
    for dictionary in dictionaries.values():
        tokens = with_senses(dictionary, tokens)
    has_senses = np.array([pair.lemma in tokens for pair in pairs])
    held_out = ~scored.is_tuning
    common = held_out & has_senses
    by_senses: dict[str, list[SenseArea]] = {}
    progress = tqdm(dictionaries.items(), desc="assigning senses", unit="dictionary")
    for name, dictionary in progress:
        by_senses[name] = _sense_areas(
            scored,
            dictionary,
            layer=layer_of[name],
            tokens=tokens,
            has_senses=has_senses,
        )
    return ContextResult(
        num_pairs=int(held_out.sum()),
        num_lemmas=len({pair.lemma for pair in pairs if not pair.for_tuning}),
        num_tuning_pairs=int(scored.is_tuning.sum()),
        all=_state_areas(scored, layers, held_out),
        num_common_pairs=int(common.sum()),
        common=_state_areas(scored, layers, common),
        senses=by_senses,
    )


class ScoredPairs:
    """N pairs with the states of their occurrences."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        occurrences: Sequence[Occurrence],
        states: dict[int, WordStates],
    ) -> None:
        """Keep the pairs. states: of the occurrences, by layer."""
        self.pairs = pairs
        self._states = states
        index = {occurrence: i for i, occurrence in enumerate(occurrences)}
        self._left = torch.tensor([index[pair.left] for pair in pairs])
        self._right = torch.tensor([index[pair.right] for pair in pairs])
        self.labels: Bools = np.array([pair.same_synset for pair in pairs])
        self.is_tuning: Bools = np.array([pair.for_tuning for pair in pairs])
        # The standard error draws whole words (ranks.auc_error).
        lemmas = [pair.lemma for pair in pairs]
        self._groups: NDArray[np.int64] = np.unique(lemmas, return_inverse=True)[1]

    @staticmethod
    def read(
        teacher: FrozenModel, tokenizer: Any, pairs: Sequence[Pair], layers: Sequence[int]
    ) -> ScoredPairs:
        """Let the teacher read every occurrence once."""
        occurrences = sorted(
            {occurrence for pair in pairs for occurrence in (pair.left, pair.right)},
            key=lambda item: (item.text, item.start, item.synset, item.lemma),
        )
        words = [WordInText(item.text, item.start, item.end) for item in occurrences]
        states = word_states(
            teacher,
            tokenizer,
            words=words,
            layers=layers,
            description="reading WordNet's examples",
        )
        return ScoredPairs(pairs, occurrences, states)

    def sides(self, layer: int, position: Position) -> tuple[Tensor, Tensor]:
        """Return the states [N, D] of the left occurrences, and those of the right ones."""
        states = self._states[layer].at(position)
        return states[self._left], states[self._right]

    def cosines(self, layer: int, position: Position) -> Floats:
        """Return [N], the cosine of the states of each pair."""
        scores: Floats = torch.cosine_similarity(*self.sides(layer, position)).double().numpy()
        return scores

    def auc_and_error(self, scores: Floats, among: Bools) -> tuple[float, float]:
        """Return the AUC of scores [N] over the pairs `among` [N], and its standard error."""
        chosen, labels = scores[among], self.labels[among]
        return auc(chosen, labels), auc_error(chosen, labels, self._groups[among])


def _state_areas(scored: ScoredPairs, layers: Sequence[int], among: Bools) -> list[StateArea]:
    """Return the AUC of the cosine of states, for every layer and position."""
    areas = []
    for layer in layers:
        for position in POSITIONS:
            area, error = scored.auc_and_error(scored.cosines(layer, position), among)
            areas.append(StateArea(layer=layer, position=position, auc=area, error=error))
    return areas


def _sense_areas(
    scored: ScoredPairs,
    dictionary: SenseDictionary,
    layer: int,
    tokens: Mapping[str, int],
    has_senses: Bools,
) -> list[SenseArea]:
    """Return the AUC of every way to score by a dictionary, over the held-out common pairs.

    layer: the dictionary's, counted from 0. tokens: word -> token, of the words with senses.
    has_senses: [N] whether the pair's word is one of them.
    """
    areas: list[SenseArea] = []
    mask = torch.from_numpy(has_senses)
    pair_tokens = [tokens[pair.lemma] for pair in scored.pairs if pair.lemma in tokens]
    for position in POSITIONS:
        left, right = scored.sides(layer, position)
        pairs = PairStates(
            tokens=pair_tokens,
            left=left[mask],
            right=right[mask],
            labels=scored.labels[has_senses],
            is_tuning=scored.is_tuning[has_senses],
        )
        for candidates in CANDIDATES:
            for name, values in pair_scores(dictionary, pairs, candidates).items():
                # Pairs without senses keep the score 0; they are not among those compared.
                scores = np.zeros(len(scored.pairs))
                scores[has_senses] = values
                area, error = scored.auc_and_error(scores, has_senses & ~scored.is_tuning)
                areas.append(
                    SenseArea(
                        layer=layer,
                        position=position,
                        candidates=candidates,
                        score=name,
                        auc=area,
                        error=error,
                    )
                )
    return areas
