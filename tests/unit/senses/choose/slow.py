"""S+ and S- computed position by position, as docs/method.md, "Candidates", describes them."""

from __future__ import annotations

import torch

from dskd_ds.losses.distributions import TopK
from dskd_ds.senses.choose.retrieve import Selection
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
    push_owners = [target, *antonyms] if settings.paper_exact else antonyms
    plus = _nearest(dictionary, _rows_of(dictionary, [target, *synonyms]), settings.kappa, state)
    minus = _nearest(dictionary, _rows_of(dictionary, push_owners), settings.kappa, state)
    if settings.paper_exact and is_full and not synonyms:
        plus = []
    if settings.paper_exact and not is_full:
        minus = []
    return set(plus), set(minus)


def _neighbours(
    dictionary: SenseDictionary,
    settings: SensesSpec,
    selection: Selection,
    i: int,
    state: torch.Tensor,
    probability: dict[int, float],
) -> Sets:
    target = int(selection.targets[i])
    num_rows = dictionary.num_token_rows
    around = _nearest(dictionary, list(range(num_rows)), settings.num_neighbours, state)
    owner = {row: int(dictionary.row_owners[row]) for row in around}
    synonyms, antonyms = dictionary.synonyms.row(target), dictionary.antonyms.row(target)
    plus: list[int] = []
    minus: list[int] = []
    has_relations = settings.candidates == "hybrid" and len(synonyms) + len(antonyms) > 0
    if not has_relations:
        likely = {t for t, p in probability.items() if p >= settings.min_teacher_probability}
        plus = [row for row in around if owner[row] in likely - {target}]
    if selection.full[i]:
        allowed = {target, *synonyms.tolist(), *probability}
        minus = [row for row in around if owner[row] not in allowed]
    return set(plus[: settings.kappa]), set(minus[: settings.kappa])


def _nearest(
    dictionary: SenseDictionary, rows: list[int], count: int, state: torch.Tensor
) -> list[int]:
    distances = (dictionary.senses[rows].float() - state).square().sum(1)
    return [rows[index] for index in distances.argsort().tolist()][:count]


def _rows_of(dictionary: SenseDictionary, owners: list[int]) -> list[int]:
    offsets = dictionary.owner_offsets
    return [row for owner in owners for row in range(int(offsets[owner]), int(offsets[owner + 1]))]
