"""The paper's loss, one sequence after the other and without padding, from the student's states.

The positions come from the same generator as the run's, the related words from its selection.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.choose.selection import Selection
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import RunSpec
from tests.unit.conftest import HEAD, V
from tests.unit.senses.choose.slow import paper_positions, paper_sets

UNRELATED = [token for token in range(V) if token % 2 and token % 3]
"""Tokens without synonyms or antonyms in the fixture `dictionary`."""
LAMBDA = 1.5


def paper_loss(
    spec: RunSpec,
    dictionary: SenseDictionary,
    teacher: FrozenModel,
    selection: Selection,
    texts: list[list[int]],
    states: list[Tensor],
    head: Tensor,
) -> Tensor:
    """Return the mean of the sequences' losses, one sequence after the other."""
    width = max(map(len, texts))
    total = torch.zeros((), dtype=torch.float64)
    for number, (ids, student) in enumerate(zip(texts, states, strict=True)):
        # The last token is only a target.
        targets, hidden = ids[1:], student[:-1].double()
        around = torch.tensor([ids]), torch.arange(len(ids))[None]
        teacher_states = teacher.hidden_states(*around)[0, :-1].float()
        teacher_logits = teacher_states.double() @ HEAD.double().T
        logits = hidden @ head.T
        ce = torch.nn.functional.cross_entropy(logits, torch.tensor(targets))
        log_q = torch.log_softmax(logits / 2, dim=1)
        log_p = torch.log_softmax(teacher_logits / 2, dim=1)
        kd = 0.7 * 2**2 * (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()
        total = total + ce + kd
        heads = {token for token in range(V) if token not in UNRELATED}
        generator = np.random.default_rng([spec.seed, 2, number])
        groups = paper_positions([*targets, -1], heads, generator)
        entries = [(i, group) for group, some in zip("AB", groups, strict=True) for i in some]
        values = []
        for i, group in entries:
            row = _row_of(selection, number * width + i, group == "A")
            plus, minus = paper_sets(
                dictionary,
                group=group,
                target=targets[i],
                synonyms=selection.synonyms.row(row).tolist(),
                antonyms=selection.antonyms.row(row).tolist(),
                state=teacher_states[i],
            )
            values.append(_sense(dictionary, plus, minus, hidden[i]))
        if values:
            total = total + LAMBDA * torch.stack(values).mean()
    return total / len(texts)


def _row_of(selection: Selection, position: int, is_full: bool) -> int:
    """Return the entry of the run's selection at a position, in group A or B."""
    found = np.flatnonzero((selection.positions == position) & (selection.full == is_full))
    assert len(found) == 1
    return int(found[0])


def _sense(dictionary: SenseDictionary, plus: set[int], minus: set[int], hidden: Tensor) -> Tensor:
    """Return pull and push of one entry; an empty set adds 0."""
    value = torch.zeros((), dtype=torch.float64)
    if plus:
        value = value + (dictionary.senses[sorted(plus)].double() - hidden).square().mean()
    if minus:
        gaps = (dictionary.senses[sorted(minus)].double() - hidden).square().mean(dim=1)
        value = value + (1 - gaps).clamp_min(0).mean()
    return value
