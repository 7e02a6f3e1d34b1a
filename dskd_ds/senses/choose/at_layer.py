"""Finds the senses that a loss below the head needs, at the teacher's states of that layer.

For `posterior` and `contrast` there are two steps. `choose` needs the teacher's states and the
index, so it may run on the teacher's side ([senses] retrieve_on = "teacher"); `pack` needs the
dictionary only. For the other kinds the student does everything, because they need the states
anyway. All choices depend on the batch, the seed and the teacher's states alone, not on the ranks.
Source: docs/method.md, "Terms below the head".
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dskd_ds.data.batches import IGNORE, Batch
from dskd_ds.link.messages import CandidatesWanted
from dskd_ds.losses.senses_at_layer import SenseCandidates, TermSenses, log_posterior
from dskd_ds.senses.choose import candidates as sets
from dskd_ds.senses.choose.key import key_of_choice
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.choose.shuffled import exchanged, shuffled_tokens
from dskd_ds.senses.dictionary.distances import pair_distances, rerank, typical_spread
from dskd_ds.senses.dictionary.sinks import is_sink, squared_lengths
from dskd_ds.signals.parts.chosen import Candidates, Chosen, Ints, Mask
from dskd_ds.signals.parts.measured import MeasuredSenses
from dskd_ds.spec.terms import LayerTermSpec

CHUNK_POSITIONS = 128
"""Positions whose senses are in float32 at a time."""
ANTONYMS = 1
"""Last number of the key of random draws, which keeps them apart from those of the positions."""
DECIDING = (
    "candidates",
    "kappa",
    "num_related_words",
    "num_neighbours",
    "index_search_effort",
)
"""The [senses] keys that decide which senses are candidates."""
DECIDING_OF_TERM = ("attribution", "shuffled_senses")
"""The keys of a term that decide which senses are its candidates. Terms that have both in common,
and the dictionary, have the same candidates, whatever their kind."""


RULES = 2
"""Version of the rules of choosing. Raise it when another choice is made by the same settings."""


class TermRetriever:
    """The senses of one loss below the head."""

    def __init__(self, retriever: SenseRetriever, term: LayerTermSpec, margin: float) -> None:
        """Take over a retriever of the term's dictionary.

        margin: squared distance per dimension, for `sense`.
        """
        self._retriever, self._term, self._margin = retriever, term, margin
        self._dictionary = retriever.dictionary
        self._spread = typical_spread(self._dictionary)
        of_tokens = self._dictionary.squared_norms[: self._dictionary.num_token_rows]
        self._median_square = float(of_tokens.median())
        self._permutation: Tensor | None = None
        if term.shuffled_senses:
            self._permutation = shuffled_tokens(retriever)

    @cached_property
    def wanted(self) -> CandidatesWanted:
        """What a student requests from a teacher that does `choose` for it.

        A teacher with another dictionary or other settings computes another key and refuses the
        request.
        """
        spec, dictionary = self._retriever.spec, self._dictionary
        settings = {
            **spec.model_dump(include=set(DECIDING), mode="json"),
            **self._term.model_dump(include=set(DECIDING_OF_TERM), mode="json"),
            "seed": self._retriever.seed,
            "rules": RULES,
        }
        num_own = np.diff(dictionary.owner_offsets[: dictionary.vocab_size + 1])
        num_sources = 2 if spec.candidates == "hybrid" else 1
        return CandidatesWanted(
            layer=dictionary.layer,
            key=key_of_choice(dictionary, settings),
            num_rows=len(dictionary.senses),
            most=max(1, int(num_own.max(initial=0)) + num_sources * spec.kappa),
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the dictionary knows."""
        return self._dictionary.vocab_size

    def senses(self, batch: Batch, states: Tensor) -> TermSenses:
        """Return what the term learns from. states: [N, D] of the teacher where a target is."""
        if self._term.kind == "sense":
            return self._pull_and_push(batch, states.float())
        if self._term.smoothing:
            return TermSenses(smoothed=self._smoothed(batch, states.float()))
        return self.pack(batch, self.choose(batch, states))

    def choose(self, batch: Batch, states: Tensor) -> MeasuredSenses:
        """Find the candidates of `posterior` or `contrast` at each position with a target.

        states: [N, D] of the teacher at these positions, on the CPU. An attention sink has none.
        """
        states, read = states.float(), _target_tokens(self._attributed(batch))
        shown = self._shown(batch)
        tokens = _target_tokens(shown)
        own = self._own(tokens, self._sinks(states))
        others = sets.merge(
            self._antonyms(shown, states), self._neighbours(tokens, read=read, states=states)
        )
        others = sets.keep_where(others, own.present(len(tokens)))
        return self._measured(sets.merge(own, others), states)

    def pack(self, batch: Batch, found: MeasuredSenses) -> TermSenses:
        """Return what `posterior` or `contrast` learns from.

        `found` may come from this process or from a teacher. Needs no index.
        """
        return TermSenses(candidates=self._padded(_target_tokens(self._shown(batch)), found))

    def _attributed(self, batch: Batch) -> Batch:
        """Return the batch with the token of each supervised position as its target."""
        tokens = batch.input_ids if self._term.attribution == "on" else batch.targets
        return replace(batch, targets=torch.where(batch.targets == IGNORE, IGNORE, tokens))

    def _shown(self, batch: Batch) -> Batch:
        """Return the batch with, as targets, the tokens whose senses the positions get."""
        attributed = self._attributed(batch)
        if self._permutation is None:
            return attributed
        return replace(attributed, targets=exchanged(attributed.targets, self._permutation))

    def _pull_and_push(self, batch: Batch, states: Tensor) -> TermSenses:
        """Return S+ and S- at positions drawn as those of the sense term of [loss] are."""
        shown = self._shown(batch)
        without_sinks = shown.targets.flatten().clone()
        without_sinks[batch.supervised[torch.from_numpy(self._sinks(states))]] = IGNORE
        drawn_from = replace(shown, targets=without_sinks.view_as(shown.targets))
        selection = self._retriever.select(drawn_from)
        rows = np.searchsorted(batch.supervised.numpy(), selection.positions)
        hidden = states[torch.from_numpy(rows)]
        pull, push = self._retriever.lexical(selection, hidden)
        read = self._attributed(batch).targets.flatten().numpy()[selection.positions]
        near = self._neighbours(selection.targets, read=read, states=hidden)
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

    def _sinks(self, states: Tensor) -> Mask:
        """Return which of the teacher's states [N, D] are attention sinks."""
        sinks: Mask = is_sink(squared_lengths(states), self._median_square).numpy()
        return sinks

    def _own(self, tokens: Ints, sinks: Mask) -> Candidates:
        """Return the senses of tokens [N]; none for attention sinks [N]."""
        own = sets.senses_of(self._dictionary, sets.ragged(np.ones_like(tokens), tokens))
        return sets.keep_where(own, ~sinks)

    def _measured(self, found: Candidates, states: Tensor) -> MeasuredSenses:
        """Return senses with their distances from the states [N, D]. found: sorted by position."""
        squared = pair_distances(self._dictionary, states, found.positions, found.rows)
        lengths = np.bincount(found.positions, minlength=len(states))
        return MeasuredSenses(lengths, found.rows, squared)

    def _smoothed(self, batch: Batch, states: Tensor) -> Tensor:
        """Return the states, mixed with the mean of their token's senses where it has any."""
        tokens = _target_tokens(self._shown(batch))
        own = self._padded(tokens, self._measured(self._own(tokens, self._sinks(states)), states))
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

    def _antonyms(self, batch: Batch, states: Tensor) -> Candidates:
        """Return the nearest senses of drawn antonyms of the batch's targets."""
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
        return sets.nearest(
            self._dictionary,
            states,
            candidates=sets.senses_of(self._dictionary, sets.stack(antonyms)),
            keep=spec.kappa,
        )

    def _neighbours(self, tokens: Ints, read: Ints, states: Tensor) -> Candidates:
        """Return the nearest senses in the dictionary that are not the token's nor a synonym's.

        tokens: [N], whose senses the positions get. read: [N], the tokens that they belong to. With
        shuffled senses these differ, and neither counts: the states lie nearest to senses of the
        token that was read, so a control would get back what it is to do without.
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
        allowed = np.ones_like(owners, dtype=bool)
        for kept_out in (tokens, read):
            allowed &= (owners != kept_out[:, None]) & ~retriever.is_synonym(kept_out, owners)
        return sets.first_allowed(rows, allowed, spec.kappa)

    def _padded(self, tokens: Ints, found: MeasuredSenses) -> SenseCandidates:
        """Return the senses found at N positions in rectangular form, sorted by dictionary row.

        tokens: [N], whose senses count as own.
        """
        dictionary, positions = self._dictionary, found.positions
        counts = found.lengths
        shape = (len(tokens), max(1, int(counts.max(initial=0))))
        unique, inverse = np.unique(found.rows, return_inverse=True)
        # Where a token has no sense, its only candidate is the first of the batch.
        unique = unique if len(unique) else np.zeros(1, np.int64)
        is_own = dictionary.row_owners[found.rows] == tokens[positions]
        columns = sets.ranges(np.zeros_like(counts), counts)
        cells = (torch.from_numpy(positions), torch.from_numpy(columns))
        index = torch.zeros(shape, dtype=torch.int64)
        mask, own = torch.zeros(2, *shape, dtype=torch.bool)
        distances = torch.zeros(shape)
        index[cells], mask[cells] = torch.from_numpy(inverse), True
        own[cells] = torch.from_numpy(is_own)
        distances[cells] = torch.from_numpy(found.squared_distances) / dictionary.hidden_size
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


def _target_tokens(batch: Batch) -> Ints:
    """Return the target [N] of each position that has one."""
    tokens: Ints = batch.targets.flatten()[batch.supervised].numpy()
    return tokens
