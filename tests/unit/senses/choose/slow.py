"""Positions, S+ and S- computed one by one: the reference of the tests.

The functions whose names begin with `paper` follow the authors' description line by line. The
others follow docs/method.md, "Candidates".
"""

from __future__ import annotations

import numpy as np
import torch

from dskd_ds.losses.distributions import TopK
from dskd_ds.senses.choose.selection import Selection
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec.senses import SensesSpec

Sets = tuple[set[int], set[int]]
"""S+ and S- of one position, as dictionary rows."""


def slow_targets(
    dictionary: SenseDictionary,
    settings: SensesSpec,
    selection: Selection,
    hidden: torch.Tensor,
    top_k: TopK,
) -> list[Sets]:
    """Return S+ and S- of every selected position."""
    log_probs = top_k.log_probs(1.0, 0)[0]
    result = []
    for i, state in enumerate(hidden):
        plus, minus = _lexical(dictionary, settings, selection, i=i, state=state)
        if settings.candidates != "lexical":
            probabilities = log_probs[i].exp().tolist()
            by_token = dict(zip(top_k.ids[i].tolist(), probabilities, strict=True))
            more_plus, more_minus = _neighbours(
                dictionary, settings, selection, i=i, state=state, probability=by_token
            )
            plus, minus = plus | more_plus, minus | more_minus
        result.append((plus, minus))
    return result


def _lexical(
    dictionary: SenseDictionary,
    settings: SensesSpec,
    selection: Selection,
    i: int,
    state: torch.Tensor,
) -> Sets:
    target, is_full = int(selection.targets[i]), bool(selection.full[i])
    synonyms, antonyms = selection.synonyms.row(i).tolist(), selection.antonyms.row(i).tolist()
    pull_owners = [target, *synonyms]
    if settings.own_in_pull == "with_synonyms" and is_full and not synonyms:
        pull_owners = []
    push_owners = antonyms
    if settings.own_in_push == "with_antonyms" and antonyms:
        push_owners = [target, *antonyms]
    plus = _nearest(dictionary, _rows_of(dictionary, pull_owners), settings.kappa, state)
    minus = _nearest(dictionary, _rows_of(dictionary, push_owners), settings.kappa, state)
    return set(plus), set(minus)


def paper_positions(
    targets: list[int], heads: set[int], generator: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Return groups A and B of one sequence.

    targets: one per position; a negative one is no target. heads: the tokens with a list of
    synonyms or antonyms.
    """
    every_position = [i for i, target in enumerate(targets) if target >= 0]
    related = [i for i in every_position if targets[i] in heads]
    n = len(related)
    if n <= 25:
        s = n
    elif n <= 62:
        s = 25
    else:
        s = int(0.4 * n)
    group_a = generator.choice(related, s, replace=False).tolist() if s else []
    group_b = generator.choice(every_position, s, replace=False).tolist() if s else []
    return group_a, group_b


def paper_sets(
    dictionary: SenseDictionary,
    group: str,
    target: int,
    synonyms: list[int],
    antonyms: list[int],
    state: torch.Tensor,
) -> Sets:
    """Return the five nearest senses of both sets of one entry.

    synonyms, antonyms: those drawn for it, at most 25 each. state: the teacher's.
    """
    plus: list[int] = []
    minus: list[int] = []
    if group == "B":
        plus = _rows_of(dictionary, [target])
    if group == "A" and synonyms:
        plus = _rows_of(dictionary, [*synonyms, target])
    if group == "A" and antonyms:
        minus = _rows_of(dictionary, [*antonyms, target])
    return (
        set(_nearest(dictionary, plus, 5, state)),
        set(_nearest(dictionary, minus, 5, state)),
    )


def _neighbours(
    dictionary: SenseDictionary,
    settings: SensesSpec,
    selection: Selection,
    i: int,
    state: torch.Tensor,
    probability: dict[int, float],
) -> Sets:
    target, read = int(selection.targets[i]), int(selection.read[i])
    num_rows = dictionary.num_token_rows
    around = _nearest(dictionary, list(range(num_rows)), settings.num_neighbours, state)
    owner = {row: int(dictionary.row_owners[row]) for row in around}
    synonyms, antonyms = dictionary.synonyms.row(target), dictionary.antonyms.row(target)
    plus: list[int] = []
    minus: list[int] = []
    has_relations = settings.candidates == "hybrid" and len(synonyms) + len(antonyms) > 0
    if not has_relations:
        likely = {t for t, p in probability.items() if p >= settings.min_teacher_probability}
        plus = [row for row in around if owner[row] in likely - {target, read}]
    if selection.full[i]:
        alike = {target, read, *synonyms.tolist(), *dictionary.synonyms.row(read).tolist()}
        minus = [row for row in around if owner[row] not in alike | set(probability)]
    return set(plus[: settings.kappa]), set(minus[: settings.kappa])


def _nearest(
    dictionary: SenseDictionary, rows: list[int], count: int, state: torch.Tensor
) -> list[int]:
    distances = (dictionary.senses[rows].float() - state).square().sum(1)
    return [rows[index] for index in distances.argsort().tolist()][:count]


def _rows_of(dictionary: SenseDictionary, owners: list[int]) -> list[int]:
    offsets = dictionary.owner_offsets
    return [row for owner in owners for row in range(int(offsets[owner]), int(offsets[owner + 1]))]
