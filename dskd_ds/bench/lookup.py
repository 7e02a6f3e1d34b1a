"""Lexical look-up, all positions of a batch at once, against a loop over positions that does what docs/method.md says, word by word."""

from __future__ import annotations

import torch
from torch import Tensor

from dskd_ds.bench.dictionaries import held_out
from dskd_ds.bench.measure import Figure, interleaved_seconds
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.choose.retrieve import Selection, SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_own
from dskd_ds.signals.parts.chosen import Candidates
from dskd_ds.spec import RunSpec

TARGET = 20.0
NUM_BLOCKS = 8
AT_A_TIME = 20
"""The fast ways are timed so many calls at a time, or they would be too short to compare with a loop on a machine that does other work."""
Sets = list[tuple[set[int], set[int]]]
"""S+ and S- of each position, as dictionary rows."""


def lookup(spec: RunSpec) -> list[Figure]:
    """Both ways on held-out text, with the spec's own dictionary. Raises AssertionError if their candidate sets differ."""
    dictionary = open_own(spec.senses.dictionary, NamedModel.of_teacher(spec.teacher), verify=False)
    text = held_out(spec, NUM_BLOCKS)
    lexical = spec.senses.model_copy(update={"candidates": "lexical", "paper_exact": False})
    retriever = SenseRetriever(dictionary, lexical, spec.loss, spec.seed)
    selection = retriever.select(text.batch)
    hidden = text.states[torch.from_numpy(selection.positions)]
    kappa = spec.senses.kappa
    looped = loop_over_positions(dictionary, selection, hidden, kappa)
    assert looped == loop_over_positions_at_once(dictionary, selection, hidden, kappa), (
        "the two loops differ"
    )
    assert looped == as_sets(*retriever.lexical(selection, hidden), len(selection)), (
        "the candidate sets differ from the loop's"
    )
    seconds = interleaved_seconds(
        {
            "loop": lambda: loop_over_positions(dictionary, selection, hidden, kappa),
            "loop_with_one_product_a_position": lambda: loop_over_positions_at_once(
                dictionary, selection, hidden, kappa
            ),
            "together": lambda: [retriever.lexical(selection, hidden) for _ in range(AT_A_TIME)],
            "drawing": lambda: [retriever.select(text.batch) for _ in range(AT_A_TIME)],
        }
    )
    for name in ("together", "drawing"):
        seconds[name] /= AT_A_TIME
    notes = {
        "positions": len(selection),
        "dictionary_rows": len(dictionary.senses),
        "speedup_against_loop_with_one_product_a_position": round(
            seconds["loop_with_one_product_a_position"] / seconds["together"], 1
        ),
        "microseconds_a_position": {
            name: round(value / len(selection) * 1e6, 1) for name, value in seconds.items()
        },
    }
    return [
        Figure(
            "lookup_speedup",
            "lexical look-up of a batch against a loop over positions and words, the same candidate sets",
            seconds["loop"] / seconds["together"],
            TARGET,
            notes=notes,
        )
    ]


def loop_over_positions(
    dictionary: SenseDictionary, selection: Selection, hidden: Tensor, kappa: int
) -> Sets:
    """As docs/method.md, "Candidates", describes it: the senses of each word, their distances, the nearest kappa of all."""
    sets: Sets = []
    for number, state in enumerate(hidden):
        pair: list[set[int]] = []
        for owners in _owners(selection, number):
            scored: list[tuple[float, int]] = []
            for owner in owners:
                start, end = (
                    int(dictionary.owner_offsets[owner]),
                    int(dictionary.owner_offsets[owner + 1]),
                )
                for row in range(start, end):
                    scored.append(
                        (float((dictionary.senses[row].float() - state).square().sum()), row)
                    )
            pair.append({row for _, row in sorted(scored)[:kappa]})
        sets.append((pair[0], pair[1]))
    return sets


def loop_over_positions_at_once(
    dictionary: SenseDictionary, selection: Selection, hidden: Tensor, kappa: int
) -> Sets:
    """The same loop, written with care: one gather and one distance for all of a position's senses."""
    sets: Sets = []
    for number, state in enumerate(hidden):
        pair: list[set[int]] = []
        for owners in _owners(selection, number):
            spans = [
                (int(dictionary.owner_offsets[owner]), int(dictionary.owner_offsets[owner + 1]))
                for owner in owners
            ]
            rows = [row for start, end in spans for row in range(start, end)]
            if rows:
                senses = torch.cat([dictionary.senses[start:end] for start, end in spans]).float()
                best = (
                    (senses - state)
                    .square()
                    .sum(dim=1)
                    .topk(min(kappa, len(rows)), largest=False)
                    .indices.tolist()
                )
                pair.append({rows[place] for place in best})
            else:
                pair.append(set())
        sets.append((pair[0], pair[1]))
    return sets


def _owners(selection: Selection, number: int) -> tuple[list[int], list[int]]:
    """Owners of a position's S+ and S-."""
    return [
        int(selection.targets[number]),
        *selection.synonyms.row(number).tolist(),
    ], selection.antonyms.row(number).tolist()


def as_sets(pull: Candidates, push: Candidates, num_positions: int) -> Sets:
    """Candidates as one pair of sets a position."""
    sets: Sets = [(set(), set()) for _ in range(num_positions)]
    for side, candidates in enumerate((pull, push)):
        for position, row in zip(
            candidates.positions.tolist(), candidates.rows.tolist(), strict=True
        ):
            sets[position][side].add(row)
    return sets


BENCHES = {"lookup": lookup}
