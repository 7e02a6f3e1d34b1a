"""Compares the lexical look-up of a whole batch with a loop over positions and words.

The loop follows docs/method.md, "Candidates", step by step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dskd_ds.bench.dictionaries import held_out
from dskd_ds.bench.measure import Figure, interleaved_seconds
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.choose.selection import Selection
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_own
from dskd_ds.signals.parts.chosen import Candidates
from dskd_ds.spec import RunSpec

TARGET = 20.0
NUM_BLOCKS = 8
CALLS_PER_TIMING = 20
"""Number of calls in one timing of a fast variant; a single call is too short to measure."""
Sets = list[tuple[set[int], set[int]]]
"""S+ and S- of each position, as dictionary rows."""


def bench_lookup(spec: RunSpec) -> list[Figure]:
    """Return the speed-up on held-out text with the spec's dictionary.

    Raises AssertionError if the candidate sets differ.
    """
    teacher = NamedModel.of_teacher(spec.teacher)
    dictionary = open_own(spec.senses.dictionary, teacher, verify=False)
    text = held_out(spec, NUM_BLOCKS)
    # Whatever the spec says: the loop that serves as reference follows this rule.
    rule = {"candidates": "lexical", "own_in_pull": "always", "own_in_push": "never"}
    lexical = spec.senses.model_copy(update=rule)
    retriever = SenseRetriever(dictionary, lexical, spec.loss, spec.seed)
    selection = retriever.select(text.batch)
    hidden = text.states[torch.from_numpy(selection.positions)]
    kappa = spec.senses.kappa
    _check_equal(retriever, selection, hidden)
    seconds = interleaved_seconds(
        {
            "loop": lambda: loop_over_positions(dictionary, selection, hidden, kappa),
            "loop_with_one_product_a_position": lambda: loop_over_positions_at_once(
                dictionary, selection, hidden, kappa
            ),
            "together": lambda: [
                retriever.lexical(selection, hidden) for _ in range(CALLS_PER_TIMING)
            ],
            "drawing": lambda: [retriever.select(text.batch) for _ in range(CALLS_PER_TIMING)],
        }
    )
    for name in ("together", "drawing"):
        seconds[name] /= CALLS_PER_TIMING
    at_once_seconds = seconds["loop_with_one_product_a_position"]
    microseconds = {name: value / len(selection) * 1e6 for name, value in seconds.items()}
    notes = {
        "positions": len(selection),
        "dictionary_rows": len(dictionary.senses),
        "speedup_against_loop_with_one_product_a_position": round(
            at_once_seconds / seconds["together"], 1
        ),
        "microseconds_a_position": {name: round(value, 1) for name, value in microseconds.items()},
    }
    # "drawing" is the choice of the positions; it is reported, but is not part of the ratio.
    return [
        Figure(
            key="lookup_speedup",
            what="time: loop over positions and words / look-up of a batch, with equal results",
            value=seconds["loop"] / seconds["together"],
            target=TARGET,
            notes=notes,
        )
    ]


def _check_equal(retriever: SenseRetriever, selection: Selection, hidden: Tensor) -> None:
    """Raise AssertionError if the loops and the look-up give different candidate sets."""
    dictionary, kappa = retriever.dictionary, retriever.spec.kappa
    looped = loop_over_positions(dictionary, selection, hidden, kappa)
    at_once = loop_over_positions_at_once(dictionary, selection, hidden, kappa)
    assert looped == at_once, "the two loops differ"
    pull, push = retriever.lexical(selection, hidden)
    batched = as_sets(pull, push, len(selection))
    assert looped == batched, "the candidate sets differ from the loop's"


def loop_over_positions(
    dictionary: SenseDictionary, selection: Selection, hidden: Tensor, kappa: int
) -> Sets:
    """Return the nearest kappa senses of each position's words, one distance at a time.

    Source: docs/method.md, "Candidates" (lexical).
    """
    sets: Sets = []
    for index, state in enumerate(hidden):
        pair: list[set[int]] = []
        for owners in _owners(selection, index):
            scored: list[tuple[float, int]] = []
            for owner in owners:
                start, end = _row_span(dictionary, owner)
                for row in range(start, end):
                    difference = dictionary.senses[row].float() - state
                    scored.append((float(difference.square().sum()), row))
            nearest = sorted(scored)[:kappa]
            pair.append({row for _, row in nearest})
        sets.append((pair[0], pair[1]))
    return sets


def loop_over_positions_at_once(
    dictionary: SenseDictionary, selection: Selection, hidden: Tensor, kappa: int
) -> Sets:
    """Return the same sets by a faster loop: one gather and one distance per position and side."""
    sets: Sets = []
    for index, state in enumerate(hidden):
        pair: list[set[int]] = []
        for owners in _owners(selection, index):
            spans = [_row_span(dictionary, owner) for owner in owners]
            rows = [row for start, end in spans for row in range(start, end)]
            if not rows:
                pair.append(set())
                continue
            senses = torch.cat([dictionary.senses[start:end] for start, end in spans]).float()
            distances = (senses - state).square().sum(dim=1)
            best = distances.topk(min(kappa, len(rows)), largest=False).indices
            pair.append({rows[column] for column in best.tolist()})
        sets.append((pair[0], pair[1]))
    return sets


def _row_span(dictionary: SenseDictionary, owner: int) -> tuple[int, int]:
    """Return the first and the last dictionary row (exclusive) of an owner."""
    return int(dictionary.owner_offsets[owner]), int(dictionary.owner_offsets[owner + 1])


def _owners(selection: Selection, index: int) -> tuple[list[int], list[int]]:
    """Return the owners of a position's S+ and S-."""
    pull = [int(selection.targets[index]), *selection.synonyms.row(index).tolist()]
    push = selection.antonyms.row(index).tolist()
    return pull, push


def as_sets(pull: Candidates, push: Candidates, num_positions: int) -> Sets:
    """Return candidates as one pair of sets per position."""
    sets: Sets = [(set(), set()) for _ in range(num_positions)]
    for side, candidates in enumerate((pull, push)):
        positions, rows = candidates.positions.tolist(), candidates.rows.tolist()
        for position, row in zip(positions, rows, strict=True):
            sets[position][side].add(row)
    return sets


BENCHES: dict[str, Callable[[RunSpec], list[Figure]]] = {"lookup": bench_lookup}
