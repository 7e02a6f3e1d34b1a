"""Finds the senses that a loss below the head needs, at the teacher's states of that layer.

The student chooses them, because its cosine or squared error needs the states anyway. All choices
depend on the batch, the seed and the teacher's states alone, not on the ranks.
Source: docs/method.md, "Terms below the head".
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dskd_ds.data.batches import IGNORE, Batch
from dskd_ds.losses.senses_at_layer import SenseCandidates, TermSenses, log_posterior
from dskd_ds.senses.choose import candidates as sets
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import pair_distances, rerank
from dskd_ds.signals.parts.chosen import Candidates, Chosen, Ints
from dskd_ds.spec.terms import LayerTermSpec

CHUNK_POSITIONS = 128
"""Positions whose senses are in float32 at a time."""
ANTONYMS, SHUFFLE = 1, 2
"""Last numbers of the keys of random draws, which keep them apart from those of the positions."""


class TermRetriever:
    """The senses of one loss below the head."""

    def __init__(self, retriever: SenseRetriever, term: LayerTermSpec, margin: float) -> None:
        """Take over a retriever of the term's dictionary.

        margin: squared distance per dimension, for `sense`.
        """
        self._retriever, self._term, self._margin = retriever, term, margin
        self._dictionary = retriever.dictionary
        self._spread = mean_spread(self._dictionary)
        self._permutation: Tensor | None = None
        if term.shuffled_senses:
            self._permutation = shuffled_tokens(self._dictionary, retriever.seed)

    def senses(self, batch: Batch, states: Tensor) -> TermSenses:
        """Return what the term learns from. states: [N, D] of the teacher where a target is."""
        batch = self._attributed(batch)
        states = states.float()
        if self._term.kind == "sense":
            return self._pull_and_push(batch, states)
        supervised = batch.supervised.numpy()
        tokens = batch.targets.flatten().numpy()[supervised]
        own = sets.senses_of(self._dictionary, sets.ragged(np.ones_like(tokens), tokens))
        if self._term.smoothing:
            return TermSenses(smoothed=self._smoothed(self._padded(states, tokens, own), states))
        others = sets.keep_where(self._others(batch, tokens, states), own.present(len(tokens)))
        return TermSenses(candidates=self._padded(states, tokens, sets.merge(own, others)))

    def _attributed(self, batch: Batch) -> Batch:
        """Return the batch with the token of each supervised position as its target."""
        tokens = batch.input_ids if self._term.attribution == "on" else batch.targets
        if self._permutation is not None:
            tokens = self._permutation[tokens.clamp_min(0)]
        return replace(batch, targets=torch.where(batch.targets == IGNORE, IGNORE, tokens))

    def _pull_and_push(self, batch: Batch, states: Tensor) -> TermSenses:
        """Return S+ and S- at positions drawn as those of the sense term of [loss] are."""
        selection = self._retriever.select(batch)
        rows = np.searchsorted(batch.supervised.numpy(), selection.positions)
        hidden = states[torch.from_numpy(rows)]
        pull, push = self._retriever.lexical(selection, hidden)
        near = self._neighbours(selection.targets, hidden)
        near = sets.keep_where(near, selection.full)
        chosen = Chosen(
            weights=np.ones(len(selection), np.float32),
            pull=pull,
            push=sets.merge(push, near),
            with_neighbours=near.present(len(selection)),
        )
        targets = self._retriever.pack(selection, chosen)
        senses = replace(targets, positions=torch.from_numpy(rows))
        return TermSenses(senses=senses, margin=self._margin)

    def _smoothed(self, own: SenseCandidates, states: Tensor) -> Tensor:
        """Return the states, mixed with the mean of their token's senses where it has any."""
        smoothed = states.clone()
        for start in range(0, len(states), CHUNK_POSITIONS):
            rows = slice(start, start + CHUNK_POSITIONS)
            chunk = own[rows]
            weights = log_posterior(
                chunk.distances, chunk.mask, chunk.spread, self._term.temperature
            ).exp()
            mean = torch.bmm(weights[:, None], chunk.vectors()).squeeze(1)
            mixed = torch.lerp(states[rows], mean, self._term.smoothing)
            smoothed[rows] = torch.where(chunk.own.any(dim=1)[:, None], mixed, states[rows])
        return smoothed

    def _others(self, batch: Batch, tokens: Ints, states: Tensor) -> Candidates:
        """Return senses that the tokens [N] are to be told from: antonyms' and neighbours'."""
        spec = self._retriever.spec
        antonyms = []
        for index, sample in enumerate(batch.samples):
            in_block = batch.targets[index].numpy()
            of_block = in_block[in_block != IGNORE]
            key = [self._retriever.seed, sample.epoch, sample.block, ANTONYMS]
            drawn = sets.draw_related(
                self._retriever.antonyms,
                of_block,
                enabled=np.ones(len(of_block), bool),
                limit=spec.num_related_words,
                generator=np.random.default_rng(key),
            )
            antonyms.append(drawn)
        lexical = sets.nearest(
            self._dictionary,
            states,
            candidates=sets.senses_of(self._dictionary, sets.stack(antonyms)),
            keep=spec.kappa,
        )
        return sets.merge(lexical, self._neighbours(tokens, states))

    def _neighbours(self, tokens: Ints, states: Tensor) -> Candidates:
        """Return the nearest senses in the dictionary that are not the token's nor a synonym's.

        None with `candidates = "lexical"`.
        """
        retriever = self._retriever
        spec = retriever.spec
        if spec.candidates == "lexical" or not len(tokens):
            return Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64))
        assert retriever.search is not None, "neighbours need an index"
        assert retriever.projection is not None
        found = retriever.search(retriever.projection(states), spec.index_search_effort)
        rows, _ = rerank(self._dictionary, states, candidates=found, keep=spec.num_neighbours)
        owners = self._dictionary.row_owners[rows]
        is_other = (owners != tokens[:, None]) & ~retriever.is_synonym(tokens, owners)
        return sets.first_allowed(rows, is_other, spec.kappa)

    def _padded(self, states: Tensor, tokens: Ints, found: Candidates) -> SenseCandidates:
        """Return the senses found at N positions in rectangular form, sorted by dictionary row.

        tokens: [N], whose senses count as own.
        """
        dictionary = self._dictionary
        counts = np.bincount(found.positions, minlength=len(states))
        shape = (len(states), max(1, int(counts.max(initial=0))))
        unique, inverse = np.unique(found.rows, return_inverse=True)
        # Where a token has no sense, its only candidate is the first of the batch.
        unique = unique if len(unique) else np.zeros(1, np.int64)
        squared = pair_distances(dictionary, states, found.positions, found.rows)
        is_own = dictionary.row_owners[found.rows] == tokens[found.positions]
        columns = sets.ranges(np.zeros_like(counts), counts)
        cells = (torch.from_numpy(found.positions), torch.from_numpy(columns))
        index = torch.zeros(shape, dtype=torch.int64)
        mask, own = torch.zeros(2, *shape, dtype=torch.bool)
        distances = torch.zeros(shape)
        index[cells], mask[cells] = torch.from_numpy(inverse), True
        own[cells] = torch.from_numpy(is_own)
        distances[cells] = torch.from_numpy(squared) / dictionary.hidden_size
        mask[:, 0] = True
        rows = torch.from_numpy(unique)
        return SenseCandidates(
            senses=dictionary.senses.index_select(0, rows),
            norms=dictionary.squared_norms[rows],
            index=index,
            mask=mask,
            own=own,
            distances=distances,
            spread=torch.tensor(self._spread),
        )


def mean_spread(dictionary: SenseDictionary) -> float:
    """Return the mean squared distance per dimension of the tokens' states from their sense."""
    rows = slice(0, dictionary.num_token_rows)
    counts = dictionary.sense_counts[rows]
    spreads = dictionary.sense_spread[rows].double().numpy()
    return float((counts * spreads).sum() / max(int(counts.sum()), 1))


def shuffled_tokens(dictionary: SenseDictionary, seed: int) -> Tensor:
    """Return [V] the token whose senses each token gets instead of its own.

    Tokens with senses exchange them in one random cycle, so that none keeps its own. Tokens without
    senses stay without.
    """
    starts = dictionary.owner_offsets[: dictionary.vocab_size + 1]
    with_senses = np.flatnonzero(np.diff(starts))
    order = np.random.default_rng([seed, SHUFFLE]).permutation(with_senses)
    tokens = torch.arange(dictionary.vocab_size)
    tokens[torch.from_numpy(order)] = torch.from_numpy(np.roll(order, 1))
    return tokens
