"""Selects the positions that get the sense term, and the senses that form S+ and S- at them.

All positions of a batch are processed at once, without a loop. There are three steps:

1. `select` draws positions and related words (selection.py). It needs no teacher.
2. `choose` finds S+ and S-. It needs the teacher's states, so it may run on the teacher's side
   ([senses] retrieve_on = "teacher").
3. `pack` turns the chosen dictionary rows into vectors.

Source: docs/method.md, "Positions" and "Candidates". Random draws are keyed by (seed, epoch,
block), so they do not depend on how the batch is spread over ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.data.batches import Batch
from dskd_ds.lexicon.relations import Ragged
from dskd_ds.link.messages import SensesWanted
from dskd_ds.losses.distributions import TopK
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.senses.choose import candidates as sets
from dskd_ds.senses.choose.key import key_of_choice
from dskd_ds.senses.choose.selection import Selection, draw_selection
from dskd_ds.senses.choose.shuffled import exchanged, shuffled_tokens
from dskd_ds.senses.choose.vectors import pull_vectors, push_vectors
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import rerank
from dskd_ds.senses.index.graph import Projection
from dskd_ds.signals.parts.chosen import Candidates, Chosen, Ints, Mask
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec

Search = Callable[[NDArray[np.float32], int], Ints]
"""Index search: ([P, d] reduced queries, number of candidates) -> [P, C] dictionary rows."""
DECIDING = (
    "candidates",
    "kappa",
    "num_related_words",
    "num_neighbours",
    "min_teacher_probability",
    "min_positions",
    "position_fraction",
    "position_rounding",
    "positions",
    "own_in_pull",
    "own_in_push",
    "index_search_effort",
)
"""The [senses] keys that decide which positions are drawn and which senses are chosen."""


class SenseRetriever:
    """Selects sense positions for batches, and chooses senses at these positions."""

    def __init__(
        self,
        dictionary: SenseDictionary,
        spec: SensesSpec,
        loss: LossSpec,
        seed: int,
        projection: Projection | None = None,
        search: Search | None = None,
    ) -> None:
        """Prepare the word relations.

        projection, search: the index. Only `choose` needs it, and only for the candidates
        `neighbours` and `hybrid`.
        """
        self.dictionary, self.spec, self.loss, self.seed = dictionary, spec, loss, seed
        self.projection, self.search = projection, search
        # `neighbours` does not use related words, so no target counts as related.
        if spec.candidates == "neighbours":
            empty = Ragged(np.zeros(dictionary.vocab_size + 1, np.int64), np.zeros(0, np.int64))
            self.synonyms, self.antonyms = empty, empty
        else:
            self.synonyms, self.antonyms = dictionary.synonyms, dictionary.antonyms
        self.has_relations = (self.synonyms.lengths() > 0) | (self.antonyms.lengths() > 0)

    @cached_property
    def _permutation(self) -> Tensor | None:
        """[V] the token whose senses each token gets instead of its own, if senses are shuffled."""
        return shuffled_tokens(self) if self.loss.shuffled_senses else None

    def select(self, batch: Batch) -> Selection:
        """Draw the batch's sense positions and their related words. Needs no teacher."""
        shown = batch.targets
        if self._permutation is not None:
            shown = exchanged(shown, self._permutation)
        return draw_selection(
            batch,
            shown,
            self.spec,
            self.seed,
            synonyms=self.synonyms,
            antonyms=self.antonyms,
        )

    @cached_property
    def wanted(self) -> SensesWanted:
        """What a student requests from a teacher that chooses the senses for it.

        A teacher with another dictionary or other settings computes another key and refuses the
        request.
        """
        settings = self.spec.model_dump(include=set(DECIDING), mode="json") | {
            "weighting": self.loss.sense_weighting,
            "seed": self.seed,
        }
        if self.loss.shuffled_senses:  # other keys stay those of earlier versions
            settings["shuffled_senses"] = True
        return SensesWanted(
            key=key_of_choice(self.dictionary, settings),
            num_rows=len(self.dictionary.senses),
            most=2 * self.spec.kappa,
        )

    def targets(
        self, selection: Selection, hidden: Tensor, top_k: TopK, column: int
    ) -> SenseTargets:
        """Run `choose`, then `pack`; see there for the arguments."""
        chosen = self.choose(selection, hidden, top_k=top_k, column=column)
        return self.pack(selection, chosen)

    def choose(self, selection: Selection, hidden: Tensor, top_k: TopK, column: int) -> Chosen:
        """Find S+ and S- at the selected positions.

        hidden: [P, D] the teacher's states at these positions. top_k: the teacher's top k at the
        same positions; `column` is the column of its tail for temperature 1. All tensors are on the
        CPU.
        """
        if not len(selection):
            return Chosen.nothing()
        hidden = hidden.float()
        probs = top_k.log_probs(1.0, column)[0].exp().numpy()
        top_ids = top_k.ids.numpy()
        pull, push = self.lexical(selection, hidden)
        with_neighbours = np.zeros(len(selection), bool)
        if self.spec.candidates != "lexical":
            more_pull, more_push = self._neighbours(selection, hidden, top_ids=top_ids, probs=probs)
            with_neighbours = more_pull.present(len(selection)) | more_push.present(len(selection))
            pull, push = sets.merge(pull, more_pull), sets.merge(push, more_push)
        weights = np.ones(len(selection), np.float32)
        if self.loss.sense_weighting == "teacher_probability":
            # At most one of the top k is the right token, so the sum is its probability, or 0.
            of_target = np.where(top_ids == selection.read[:, None], probs, 0.0)
            weights = of_target.sum(axis=1).astype(np.float32)
        return Chosen(weights=weights, pull=pull, push=push, with_neighbours=with_neighbours)

    def lexical(self, selection: Selection, hidden: Tensor) -> tuple[Candidates, Candidates]:
        """Return S+ and S- from the word relations alone: the kappa senses nearest to the state.

        hidden: [P, D] float32. Source: docs/method.md, "Candidates".
        """
        pull_owners = sets.prepend(selection.targets, selection.synonyms)
        push_owners = selection.antonyms
        own_pushes = self.spec.own_in_push == "with_antonyms"
        if own_pushes:
            push_owners = sets.prepend(selection.targets, selection.antonyms)
        # One search serves both sides: rows P to 2P - 1 are the S- of positions 0 to P - 1.
        both = sets.senses_of(self.dictionary, sets.stack([pull_owners, push_owners]))
        kept = sets.nearest(self.dictionary, hidden, candidates=both, keep=self.spec.kappa)
        pull, push = sets.split_at(kept, len(selection))
        if self.spec.own_in_pull == "with_synonyms":
            pull = sets.keep_where(pull, (selection.synonyms.lengths() > 0) | ~selection.full)
        if own_pushes:
            # Without antonyms S- would hold the target's own senses alone.
            push = sets.keep_where(push, selection.antonyms.lengths() > 0)
        return pull, push

    def _neighbours(
        self, selection: Selection, hidden: Tensor, top_ids: Ints, probs: NDArray[np.float32]
    ) -> tuple[Candidates, Candidates]:
        """Return the senses that the index adds to S+ and S-, chosen among the nearest rows R_i.

        S+ gets neighbours that the teacher finds likely, where the target has no relations. S- gets
        hard negatives, where pull and push apply.
        """
        assert self.search is not None, "neighbours need an index"
        assert self.projection is not None
        found = self.search(self.projection(hidden), self.spec.index_search_effort)
        rows, _ = rerank(self.dictionary, hidden, candidates=found, keep=self.spec.num_neighbours)
        owners = self.dictionary.row_owners[rows]
        in_top_k, probability = sets.look_up(owners, top_ids, probs)
        is_target = owners == selection.targets[:, None]
        is_synonym = self.is_synonym(selection.targets, owners)
        if self.loss.shuffled_senses:
            # The state lies nearest to the senses that the control is to do without.
            is_target |= owners == selection.read[:, None]
            is_synonym |= self.is_synonym(selection.read, owners)
        may_pull = (
            ~self.has_relations[selection.targets][:, None]
            & ~is_target
            & (probability >= self.spec.min_teacher_probability)
        )
        may_push = selection.full[:, None] & ~is_target & ~in_top_k & ~is_synonym
        pull = sets.first_allowed(rows, may_pull, self.spec.kappa)
        push = sets.first_allowed(rows, may_push, self.spec.kappa)
        return pull, push

    def is_synonym(self, targets: Ints, owners: Ints) -> Mask:
        """Return [P, R]: whether owners [P, R] are synonyms of their target [P], drawn or not."""
        table, tokens = self.dictionary.synonyms, np.unique(targets)
        starts = table.offsets[tokens]
        counts = table.offsets[tokens + 1] - starts
        # Each pair (token, owner) becomes one integer, so that one membership test checks all
        # pairs.
        size = np.int64(len(self.dictionary.owner_offsets))
        synonym_pairs = np.repeat(tokens, counts) * size + table.values[sets.ranges(starts, counts)]
        return np.isin(targets[:, None] * size + owners, synonym_pairs)

    def pack(self, selection: Selection, chosen: Chosen) -> SenseTargets:
        """Return the vectors of the chosen senses; those of S- keep the dictionary's format.

        `chosen` may come from this process or from a teacher. Needs no index.
        """
        size = len(selection)
        if not size:
            return SenseTargets.empty(self.dictionary.hidden_size)
        pull = pull_vectors(self.dictionary, chosen.pull, size)
        push = push_vectors(self.dictionary, chosen.push, size)
        has_nothing = ~chosen.pull.present(size) & ~chosen.push.present(size)
        # In the order of losses.sense.COVERAGE.
        coverage = [
            selection.synonyms.lengths() > 0,
            selection.antonyms.lengths() > 0,
            chosen.with_neighbours,
            has_nothing,
        ]
        return SenseTargets(
            positions=torch.from_numpy(selection.positions),
            weights=torch.from_numpy(chosen.weights),
            pull_mean=pull.mean,
            pull_spread=pull.spread,
            has_pull=pull.present,
            push=push.senses,
            push_norms=push.norms,
            push_mask=push.mask,
            coverage=torch.tensor([int(mask.sum()) for mask in coverage]),
        )
