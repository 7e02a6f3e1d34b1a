"""Which positions get the sense term, and which senses form S+ and S- there. All of a batch at once, no loop over positions.

Three steps: `select` draws positions and related words and needs no teacher; `choose` finds S+ and S- and needs the teacher's states;
`pack` turns the chosen rows into vectors. The middle one may run where the teacher is ([senses] retrieve_on).

Source: docs/method.md, "Positions" and "Candidates". Draws are keyed by (seed, epoch, block), so they do not depend on the ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
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
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import rerank
from dskd_ds.senses.index.graph import Projection, senses_digest
from dskd_ds.signals.parts.chosen import Candidates, Chosen, Ints, Mask
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec

Search = Callable[[NDArray[np.float32], int], Ints]
"""[P, d] reduced queries, number of candidates -> [P, C] rows."""
DECIDING = (
    "candidates",
    "kappa",
    "num_related_words",
    "num_neighbours",
    "min_teacher_probability",
    "min_positions",
    "position_fraction",
    "paper_exact",
    "index_search_effort",
)
"""The [senses] keys that decide what is drawn and chosen."""


@dataclass(frozen=True)
class Selection:
    """The sense positions of a batch, and what was drawn for them."""

    positions: Ints
    """[P] through the flattened B * T, ascending within each block."""
    targets: Ints
    """[P] the right tokens."""
    full: Mask
    """[P] whether the whole term applies; elsewhere only the pull."""
    synonyms: Ragged
    """Owners drawn for each position."""
    antonyms: Ragged

    def __len__(self) -> int:
        return len(self.positions)


class SenseRetriever:
    """Picks positions, then candidates, for batches."""

    def __init__(
        self,
        dictionary: SenseDictionary,
        spec: SensesSpec,
        loss: LossSpec,
        seed: int,
        projection: Projection | None = None,
        search: Search | None = None,
    ) -> None:
        """projection, search: the index; needed to `choose` for `neighbours` and `hybrid`."""
        self.dictionary, self.spec, self.loss, self.seed = dictionary, spec, loss, seed
        self.projection, self.search = projection, search
        lexical = spec.candidates != "neighbours"
        none = Ragged(np.zeros(dictionary.vocab_size + 1, np.int64), np.zeros(0, np.int64))
        self.synonyms, self.antonyms = (
            (dictionary.synonyms, dictionary.antonyms) if lexical else (none, none)
        )
        self.has_relations = (self.synonyms.lengths() > 0) | (self.antonyms.lengths() > 0)

    def select(self, batch: Batch) -> Selection:
        """Draw the batch's sense positions and their related words. Needs no teacher."""
        targets = batch.targets.numpy()
        positions: list[Ints] = []
        fulls: list[Mask] = []
        synonyms: list[Ragged] = []
        antonyms: list[Ragged] = []
        for number, sample in enumerate(batch.samples):
            generator = np.random.default_rng([self.seed, sample.epoch, sample.block])
            here, full = self._draw_positions(targets[number], generator)
            for table, drawn in ((self.synonyms, synonyms), (self.antonyms, antonyms)):
                drawn.append(
                    sets.draw(
                        table, targets[number, here], full, self.spec.num_related_words, generator
                    )
                )
            positions.append(here + number * targets.shape[1])
            fulls.append(full)
        flat = np.concatenate(positions)
        return Selection(
            flat,
            targets.reshape(-1)[flat],
            np.concatenate(fulls),
            sets.stack(synonyms),
            sets.stack(antonyms),
        )

    def _draw_positions(self, targets: Ints, generator: np.random.Generator) -> tuple[Ints, Mask]:
        """Positions of one block: related ones for the whole term, and as many others for the pull alone."""
        supervised = np.flatnonzero(targets >= 0)
        related = (
            supervised[self.has_relations[targets[supervised]]]
            if self.spec.candidates != "neighbours"
            else supervised
        )
        wanted = max(
            min(self.spec.min_positions, len(related)),
            int(np.ceil(self.spec.position_fraction * len(related))),
        )
        full = generator.choice(related, wanted, replace=False)
        others = np.setdiff1d(supervised, full)
        pull_only = generator.choice(others, min(wanted, len(others)), replace=False)
        positions = np.concatenate([full, pull_only])
        order = np.argsort(positions)
        return positions[order], (np.arange(len(positions)) < wanted)[order]

    @cached_property
    def wanted(self) -> SensesWanted:
        """What a student asks a teacher for that is to choose in its place; a teacher with other senses finds another."""
        settings = self.spec.model_dump(include=set(DECIDING), mode="json") | {
            "weighting": self.loss.sense_weighting,
            "seed": self.seed,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        key = f"dictionary {senses_digest(self.dictionary)[:16]}, settings {digest[:16]}"
        return SensesWanted(key=key, num_rows=len(self.dictionary.senses), most=2 * self.spec.kappa)

    def targets(
        self, selection: Selection, hidden: Tensor, top_k: TopK, column: int
    ) -> SenseTargets:
        """Choose and pack."""
        return self.pack(selection, self.choose(selection, hidden, top_k, column))

    def choose(self, selection: Selection, hidden: Tensor, top_k: TopK, column: int) -> Chosen:
        """Find S+ and S- at the selected positions.

        hidden: [P, D] the teacher's states there. top_k: its top k at the same positions; `column` of its tail is temperature 1.
        All on the CPU.
        """
        if not len(selection):
            return Chosen.nothing()
        hidden = hidden.float()
        probs = top_k.log_probs(1.0, column)[0].exp().numpy()
        top_ids = top_k.ids.numpy()
        pull, push = self.lexical(selection, hidden)
        with_neighbours = np.zeros(len(selection), bool)
        if self.spec.candidates != "lexical":
            more_pull, more_push = self._neighbours(selection, hidden, top_ids, probs)
            with_neighbours = more_pull.present(len(selection)) | more_push.present(len(selection))
            pull, push = sets.merge(pull, more_pull), sets.merge(push, more_push)
        weights = np.ones(len(selection), np.float32)
        if self.loss.sense_weighting == "teacher_probability":
            weights = (
                np.where(top_ids == selection.targets[:, None], probs, 0.0)
                .sum(axis=1)
                .astype(np.float32)
            )
        return Chosen(weights, pull, push, with_neighbours)

    def lexical(self, selection: Selection, hidden: Tensor) -> tuple[Candidates, Candidates]:
        """S+ and S- from the word relations alone: the kappa senses nearest to hidden [P, D] float32 (docs/method.md, "Candidates")."""
        antonyms = (
            sets.with_own(selection.targets, selection.antonyms)
            if self.spec.paper_exact
            else selection.antonyms
        )
        both = sets.rows_of(
            self.dictionary,
            sets.stack([sets.with_own(selection.targets, selection.synonyms), antonyms]),
        )
        pull, push = sets.split(
            sets.nearest(self.dictionary, hidden, both, self.spec.kappa), len(selection)
        )
        if self.spec.paper_exact:
            pull = sets.keep_where(pull, (selection.synonyms.lengths() > 0) | ~selection.full)
            push = sets.keep_where(
                push, selection.full
            )  # S- has own senses too; where only the pull applies it is empty
        return pull, push

    def _neighbours(
        self, selection: Selection, hidden: Tensor, top_ids: Ints, probs: NDArray[np.float32]
    ) -> tuple[Candidates, Candidates]:
        """From R_i: likely neighbours where the target has no relations, hard negatives where the whole term applies."""
        assert self.search is not None, "neighbours need an index"
        assert self.projection is not None
        found = self.search(self.projection(hidden), self.spec.index_search_effort)
        rows, _ = rerank(self.dictionary, hidden, found, self.spec.num_neighbours)
        owners = self.dictionary.row_owners[rows]
        same = owners[:, :, None] == top_ids[:, None, :]
        in_top, probability = same.any(axis=2), (same * probs[:, None, :]).sum(axis=2)
        is_target = owners == selection.targets[:, None]
        may_pull = (
            ~self.has_relations[selection.targets][:, None]
            & ~is_target
            & (probability >= self.spec.min_teacher_probability)
        )
        may_push = (
            selection.full[:, None]
            & ~is_target
            & ~in_top
            & ~self._is_synonym(selection.targets, owners)
        )
        return sets.first(rows, may_pull, self.spec.kappa), sets.first(
            rows, may_push, self.spec.kappa
        )

    def _is_synonym(self, targets: Ints, owners: Ints) -> Mask:
        """[P, R]: whether an owner is any synonym of the target, drawn or not."""
        table, tokens = self.dictionary.synonyms, np.unique(targets)
        counts = table.offsets[tokens + 1] - table.offsets[tokens]
        size = np.int64(len(self.dictionary.owner_offsets))
        related = (
            np.repeat(tokens, counts) * size
            + table.values[sets.ranges(table.offsets[tokens], counts)]
        )
        return np.isin(targets[:, None] * size + owners, related)

    def pack(self, selection: Selection, chosen: Chosen) -> SenseTargets:
        """The vectors of what was chosen, wherever that was; those of S- as the dictionary has them. Needs no index."""
        senses, norms, size = self.dictionary.senses, self.dictionary.squared_norms, len(selection)
        if not size:
            return SenseTargets.empty(self.dictionary.hidden_size)
        pull, push = chosen.pull, chosen.push
        counts = np.bincount(pull.positions, minlength=size)
        owners, rows = torch.from_numpy(pull.positions), torch.from_numpy(pull.rows)
        number = torch.from_numpy(counts).clamp_min(1).float()
        mean = (
            torch.zeros(size, senses.shape[1]).index_add_(
                0, owners, senses.index_select(0, rows).float()
            )
            / number[:, None]
        )
        mean_square = torch.zeros(size).index_add_(0, owners, norms[rows]) / number
        spread = (mean_square - mean.square().sum(dim=1)).clamp_min(0)
        push_counts = np.bincount(push.positions, minlength=size)
        width = max(1, int(push_counts.max()))
        column = sets.ranges(np.zeros_like(push_counts), push_counts)
        negatives = torch.zeros(size, width, senses.shape[1], dtype=senses.dtype)
        place, rows = (
            (torch.from_numpy(push.positions), torch.from_numpy(column)),
            torch.from_numpy(push.rows),
        )
        negatives[place] = senses.index_select(0, rows)
        negative_norms = torch.zeros(size, width)
        negative_norms[place] = norms[rows]
        mask = torch.arange(width) < torch.from_numpy(push_counts)[:, None]
        has_pull = torch.from_numpy(counts > 0)
        coverage = [
            selection.synonyms.lengths() > 0,
            selection.antonyms.lengths() > 0,
            chosen.with_neighbours,
            (counts == 0) & (push_counts == 0),
        ]
        return SenseTargets(
            torch.from_numpy(selection.positions),
            torch.from_numpy(chosen.weights),
            mean,
            torch.where(has_pull, spread, 0.0),
            has_pull,
            negatives,
            negative_norms,
            mask,
            torch.tensor([int(part.sum()) for part in coverage]),
        )
