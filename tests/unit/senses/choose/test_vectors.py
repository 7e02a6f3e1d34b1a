"""The tensors that the sense loss reads: their format, their size and the empty case."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from dskd_ds.costs.traffic import held_sense_bytes
from dskd_ds.losses.sense import SenseTargets, sense_loss
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec.loss import LossSpec
from tests.unit.senses.choose.small import D, batch, dictionary_in, retriever, spec, teacher_signal


@pytest.fixture
def dictionary(tmp_path: Path) -> SenseDictionary:
    return dictionary_in(tmp_path / "senses")


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
def test_senses_keep_the_dictionarys_format_and_give_the_same_loss(
    dictionary: SenseDictionary, candidates: str
) -> None:
    """The targets take as many bytes as the plan says, because some position has all its senses."""
    picker = retriever(dictionary, spec(candidates=candidates))
    selection = picker.select(batch())
    hidden, top_k = teacher_signal(selection)
    found = picker.targets(selection, hidden, top_k, 0)
    tensors = [getattr(found, field.name) for field in fields(found) if field.name != "coverage"]
    num_bytes = sum(tensor.nbytes for tensor in tensors)
    assert num_bytes == len(selection) * held_sense_bytes(picker.spec, D)
    wide = replace(found, push=found.push.float())
    narrow_loss, wide_loss = (
        sense_loss(hidden + 0.1, targets, LossSpec(), 5.0) for targets in (found, wide)
    )
    assert torch.equal(narrow_loss.sums(), wide_loss.sums())
    assert torch.equal(narrow_loss.grad, wide_loss.grad)
    assert narrow_loss.push_active > 0


def test_no_positions_give_empty_targets() -> None:
    targets = SenseTargets.empty(D)
    found = sense_loss(torch.randn(3, D)[targets.positions], targets, LossSpec(), 1.0)
    assert found.loss == 0.0
    assert found.grad.shape == (0, D)
