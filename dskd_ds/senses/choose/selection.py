"""Draws the positions that get the sense term, and the related words at each of them.

Source: docs/method.md, "Positions". Random draws are keyed by (seed, epoch, block), so they do not
depend on how the batch is spread over ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dskd_ds.data.batches import Batch
from dskd_ds.lexicon.relations import Ragged
from dskd_ds.senses.choose import candidates as sets
from dskd_ds.signals.parts.chosen import Ints, Mask
from dskd_ds.spec.senses import SensesSpec


@dataclass(frozen=True)
class Selection:
    """The sense positions of a batch, and the related words drawn for them."""

    positions: Ints
    """[P] indices into the flattened B * T positions, ascending. With [senses] positions =
    "independent" a position can come twice, first with the whole term and then with the pull."""
    targets: Ints
    """[P] tokens whose senses the positions get."""
    read: Ints
    """[P] tokens that follow in the text: the targets, unless senses are shuffled."""
    full: Mask
    """[P] whether pull and push apply; where false, only the pull applies."""
    synonyms: Ragged
    """P rows: the owners (tokens or spans) of the synonyms drawn for each position."""
    antonyms: Ragged
    """P rows: the owners (tokens or spans) of the antonyms drawn for each position."""

    def __len__(self) -> int:
        return len(self.positions)


def draw_selection(
    batch: Batch,
    shown: Tensor,
    spec: SensesSpec,
    seed: int,
    synonyms: Ragged,
    antonyms: Ragged,
) -> Selection:
    """Draw the sense positions of a batch, and their related words.

    shown: [B, T] tokens whose senses the positions get: the batch's targets, unless senses are
    shuffled. synonyms, antonyms: those of each token; empty where related words are not used.
    """
    targets = shown.numpy()
    block_length = targets.shape[1]
    has_relations = (synonyms.lengths() > 0) | (antonyms.lengths() > 0)
    positions: list[Ints] = []
    fulls: list[Mask] = []
    drawn_synonyms: list[Ragged] = []
    drawn_antonyms: list[Ragged] = []
    for block_index, sample in enumerate(batch.samples):
        # The order of the draws (positions, synonyms, antonyms) decides what a seed gives.
        generator = np.random.default_rng([seed, sample.epoch, sample.block])
        supervised = np.flatnonzero(targets[block_index] >= 0)
        eligible = supervised
        if spec.candidates != "neighbours":
            eligible = supervised[has_relations[targets[block_index, supervised]]]
        in_block, full = _draw_positions(supervised, eligible, spec, generator)
        tokens = targets[block_index, in_block]
        for table, drawn in ((synonyms, drawn_synonyms), (antonyms, drawn_antonyms)):
            related = sets.draw_related(
                table, tokens, enabled=full, limit=spec.num_related_words, generator=generator
            )
            drawn.append(related)
        positions.append(in_block + block_index * block_length)
        fulls.append(full)
    flat = np.concatenate(positions)
    return Selection(
        positions=flat,
        targets=targets.reshape(-1)[flat],
        read=batch.targets.numpy().reshape(-1)[flat],
        full=np.concatenate(fulls),
        synonyms=sets.stack(drawn_synonyms),
        antonyms=sets.stack(drawn_antonyms),
    )


def _draw_positions(
    supervised: Ints, eligible: Ints, spec: SensesSpec, generator: np.random.Generator
) -> tuple[Ints, Mask]:
    """Draw positions of one block: some for pull and push, as many for the pull alone.

    supervised: those with a target. eligible: those of them that may get pull and push. Returns
    positions [P], ascending, and a mask [P] of those with pull and push.
    """
    at_least = min(spec.min_positions, len(eligible))
    round_ = np.ceil if spec.position_rounding == "up" else np.floor
    count = max(at_least, int(round_(spec.position_fraction * len(eligible))))
    full = generator.choice(eligible, count, replace=False)
    others = supervised
    if spec.positions == "disjoint":
        others = np.setdiff1d(supervised, full)
    pull_only = generator.choice(others, min(count, len(others)), replace=False)
    positions = np.concatenate([full, pull_only])
    # Stable, so that of two equal positions the one with the whole term comes first.
    order = np.argsort(positions, kind="stable")
    is_full = np.arange(len(positions)) < count
    return positions[order], is_full[order]
