"""Which positions get the sense term, and which senses form S+ and S- there. All of a batch at once, no loop over positions.

Source: METHOD.md, "Positions" and "Candidates". Draws are keyed by (seed, epoch, block), so they do not depend on the ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.data.batches import Batch
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.sense.dictionary import SenseDictionary
from dskd_ds.sense.index import Projection, rerank
from dskd_ds.sense.relations import Ragged
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.teacher.signal import TopK

Ints = NDArray[np.int64]
Search = Callable[[NDArray[np.float32], int], Ints]
"""[P, d] reduced queries, number of candidates -> [P, C] rows."""


@dataclass(frozen=True)
class Selection:
    """The sense positions of a batch, and what was drawn for them."""

    positions: Ints
    """[P] through the flattened B * T, ascending within each block."""
    targets: Ints
    """[P] the right tokens."""
    full: NDArray[np.bool_]
    """[P] whether the whole term applies; elsewhere only the pull."""
    synonyms: Ragged
    """Owners drawn for each position."""
    antonyms: Ragged

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Candidates:
    """Senses of each position, as pairs (position number, dictionary row), sorted by position, nearest first."""

    owners: Ints
    """[M] which of the P positions."""
    rows: Ints
    """[M]"""


class SenseRetriever:
    """Picks positions, then candidates, for batches."""

    def __init__(self, dictionary: SenseDictionary, spec: SensesSpec, loss: LossSpec, seed: int,
                 projection: Projection | None = None, search: Search | None = None) -> None:
        """projection, search: the index; needed for `neighbours` and `hybrid`."""
        assert spec.candidates == "lexical" or search is not None, "neighbours need an index"
        self.dictionary, self.spec, self.loss, self.seed = dictionary, spec, loss, seed
        self.projection, self.search = projection, search
        lexical = spec.candidates != "neighbours"
        none = Ragged(np.zeros(dictionary.vocab_size + 1, np.int64), np.zeros(0, np.int64))
        self.synonyms, self.antonyms = (dictionary.synonyms, dictionary.antonyms) if lexical else (none, none)
        self.has_relations = (self.synonyms.lengths() > 0) | (self.antonyms.lengths() > 0)

    def select(self, batch: Batch) -> Selection:
        """Draw the batch's sense positions and their related words. Needs no teacher."""
        targets = batch.targets.numpy()
        chosen: list[tuple[Ints, NDArray[np.bool_]]] = []
        synonyms: list[Ints] = []
        antonyms: list[Ints] = []
        for number, sample in enumerate(batch.samples):
            generator = np.random.default_rng([self.seed, sample.epoch, sample.block])
            positions, full = self._draw_positions(targets[number], generator)
            chosen.append((positions + number * targets.shape[1], full))
            for position, whole in zip(positions, full, strict=True):
                token = int(targets[number, position])
                synonyms.append(self._draw(self.synonyms.row(token), generator) if whole else self.synonyms.values[:0])
                antonyms.append(self._draw(self.antonyms.row(token), generator) if whole else self.antonyms.values[:0])
        positions = np.concatenate([c[0] for c in chosen])
        return Selection(positions, batch.targets.flatten().numpy()[positions], np.concatenate([c[1] for c in chosen]),
                         _ragged(synonyms), _ragged(antonyms))

    def _draw_positions(self, targets: Ints, generator: np.random.Generator) -> tuple[Ints, NDArray[np.bool_]]:
        """Positions of one block: related ones for the whole term, and as many others for the pull alone."""
        supervised = np.flatnonzero(targets >= 0)
        related = supervised[self.has_relations[targets[supervised]]] if self.spec.candidates != "neighbours" else supervised
        wanted = max(min(self.spec.min_positions, len(related)), int(np.ceil(self.spec.position_fraction * len(related))))
        full = generator.choice(related, wanted, replace=False)
        others = np.setdiff1d(supervised, full)
        pull_only = generator.choice(others, min(wanted, len(others)), replace=False)
        positions = np.concatenate([full, pull_only])
        order = np.argsort(positions)
        return positions[order], (np.arange(len(positions)) < wanted)[order]

    def _draw(self, owners: Ints, generator: np.random.Generator) -> Ints:
        number = self.spec.num_related_words
        return owners if len(owners) <= number else generator.choice(owners, number, replace=False)

    def targets(self, selection: Selection, hidden: Tensor, top_k: TopK, column: int) -> SenseTargets:
        """Find S+ and S- at the selected positions.

        hidden: [P, D] the teacher's states there. top_k: its top k at the same positions; `column` of its tail is temperature 1.
        """
        if not len(selection):
            return SenseTargets.empty(self.dictionary.hidden_size)
        hidden = hidden.float()
        probs = top_k.log_probs(1.0, column)[0].exp().numpy()
        top_ids = top_k.ids.numpy()
        own = _ragged([np.array([token]) for token in selection.targets])
        pull = self._nearest(hidden, self._rows_of(_join(own, selection.synonyms)))
        push = self._nearest(hidden, self._rows_of(_join(own, selection.antonyms) if self.spec.paper_exact else selection.antonyms))
        if self.spec.paper_exact:
            has_synonyms = selection.synonyms.lengths() > 0
            pull = _keep(pull, has_synonyms[pull.owners] | ~selection.full[pull.owners])
        if self.spec.candidates != "lexical":
            pull, push = self._with_neighbours(selection, hidden, top_ids, probs, pull, push)
        weights = torch.ones(len(selection))
        if self.loss.sense_weighting == "teacher_probability":
            weights = torch.from_numpy(np.where(top_ids == selection.targets[:, None], probs, 0.0).sum(axis=1)).float()
        return self._pack(selection, weights, pull, push)

    def _rows_of(self, owners: Ragged) -> Candidates:
        """All senses of each position's owners."""
        starts = self.dictionary.owner_offsets[owners.values]
        counts = self.dictionary.owner_offsets[owners.values + 1] - starts
        positions = np.repeat(np.repeat(np.arange(len(owners.offsets) - 1), owners.lengths()), counts)
        return Candidates(positions, _ranges(starts, counts))

    def _nearest(self, hidden: Tensor, candidates: Candidates) -> Candidates:
        """The kappa candidates of each position nearest to the teacher's state, exactly."""
        rows, owners = torch.from_numpy(candidates.rows), torch.from_numpy(candidates.owners)
        products = torch.cat([torch.einsum("md,md->m", self.dictionary.senses[r].float(), hidden[o])
                              for r, o in zip(rows.split(16_384), owners.split(16_384), strict=True)]) if len(rows) else torch.zeros(0)
        distances = (self.dictionary.squared_norms[rows] - 2 * products).numpy()  # + |h|^2, the same for all of a position
        order = np.lexsort((candidates.rows, distances, candidates.owners))
        ordered = Candidates(candidates.owners[order], candidates.rows[order])
        rank = np.arange(len(order)) - np.searchsorted(ordered.owners, ordered.owners)
        return _keep(ordered, rank < self.spec.kappa)

    def _with_neighbours(self, selection: Selection, hidden: Tensor, top_ids: Ints, probs: NDArray[np.float32],
                         pull: Candidates, push: Candidates) -> tuple[Candidates, Candidates]:
        """Add from R_i: likely neighbours where the target has no relations, hard negatives where the whole term applies."""
        assert self.search is not None
        assert self.projection is not None
        found = self.search(self.projection(hidden), self.spec.index_search_effort)
        rows, _ = rerank(self.dictionary, hidden, found, self.spec.num_neighbours)
        owners = self.dictionary.row_owners[rows]
        same = owners[:, :, None] == top_ids[:, None, :]
        in_top, probability = same.any(axis=2), (same * probs[:, None, :]).sum(axis=2)
        is_target = owners == selection.targets[:, None]
        may_pull = ~self.has_relations[selection.targets][:, None] & ~is_target \
            & (probability >= self.spec.min_teacher_probability)
        may_push = selection.full[:, None] & ~is_target & ~in_top & ~self._is_synonym(selection.targets, owners)
        return (_merge(pull, _first(rows, may_pull, self.spec.kappa)), _merge(push, _first(rows, may_push, self.spec.kappa)))

    def _is_synonym(self, targets: Ints, owners: Ints) -> NDArray[np.bool_]:
        """[P, R]: whether an owner is any synonym of the target, drawn or not."""
        table = self.dictionary.synonyms
        size = np.int64(len(self.dictionary.owner_offsets))
        keys = np.repeat(np.unique(targets), table.lengths()[np.unique(targets)]) * size
        related = keys + np.concatenate([table.row(int(t)) for t in np.unique(targets)])
        return np.isin(targets[:, None] * size + owners, related)

    def _pack(self, selection: Selection, weights: Tensor, pull: Candidates, push: Candidates) -> SenseTargets:
        senses, norms, size = self.dictionary.senses, self.dictionary.squared_norms, len(selection)
        counts = np.bincount(pull.owners, minlength=size)
        owners, rows = torch.from_numpy(pull.owners), torch.from_numpy(pull.rows)
        number = torch.from_numpy(counts).clamp_min(1).float()
        mean = torch.zeros(size, senses.shape[1]).index_add_(0, owners, senses[rows].float()) / number[:, None]
        mean_square = torch.zeros(size).index_add_(0, owners, norms[rows]) / number
        spread = (mean_square - mean.square().sum(dim=1)).clamp_min(0)
        push_counts = np.bincount(push.owners, minlength=size)
        width = max(1, int(push_counts.max()))
        column = np.arange(len(push.owners)) - np.searchsorted(push.owners, push.owners)
        negatives = torch.zeros(size, width, senses.shape[1])
        place, chosen = (torch.from_numpy(push.owners), torch.from_numpy(column)), torch.from_numpy(push.rows)
        negatives[place] = senses[chosen].float()
        negative_norms = torch.zeros(size, width)
        negative_norms[place] = norms[chosen]
        mask = torch.arange(width) < torch.from_numpy(push_counts)[:, None]
        has_pull = torch.from_numpy(counts > 0)
        return SenseTargets(torch.from_numpy(selection.positions), weights, mean, torch.where(has_pull, spread, 0.0), has_pull,
                            negatives, negative_norms, mask)


def _ragged(rows: list[Ints]) -> Ragged:
    lengths = np.array([len(row) for row in rows], np.int64)
    return Ragged(np.concatenate([[0], np.cumsum(lengths)]), np.concatenate(rows) if rows else np.zeros(0, np.int64))


def _join(left: Ragged, right: Ragged) -> Ragged:
    """Row by row, the values of both."""
    owners = np.concatenate([np.repeat(np.arange(len(r.offsets) - 1), r.lengths()) for r in (left, right)])
    order = np.argsort(owners, kind="stable")
    lengths = left.lengths() + right.lengths()
    return Ragged(np.concatenate([[0], np.cumsum(lengths)]), np.concatenate([left.values, right.values])[order])


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """Concatenation of arange(start, start + count)."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def _keep(candidates: Candidates, mask: NDArray[np.bool_]) -> Candidates:
    return Candidates(candidates.owners[mask], candidates.rows[mask])


def _first(rows: Ints, mask: NDArray[np.bool_], number: int) -> Candidates:
    """The first `number` of each line's rows that the mask admits."""
    mask = mask & (mask.cumsum(axis=1) <= number)
    return Candidates(np.nonzero(mask)[0], rows[mask])


def _merge(left: Candidates, right: Candidates) -> Candidates:
    """Both, by position, each row once."""
    owners = np.concatenate([left.owners, right.owners])
    rows = np.concatenate([left.rows, right.rows])
    pairs = np.unique(np.stack([owners, rows], axis=1), axis=0)
    return Candidates(pairs[:, 0], pairs[:, 1])
