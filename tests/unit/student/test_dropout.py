"""Attention dropout: in all layers while training, keyed by seed and place, never in evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dskd_ds.errors import InputError
from dskd_ds.spec.models import StudentSpec
from dskd_ds.student.dropout import seed_dropout, set_attention_dropout
from dskd_ds.student.model import freeze
from tests.conftest import TinyWorld, write_model

IDS = torch.arange(1, 13)[None]


@pytest.fixture(scope="module")
def folder(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("dropout"), tiny.folder, num_layers=2, seed=5)


def student(folder: Path, probability: float) -> Any:
    """Return a student that trains only its last layer."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    freeze(model, StudentSpec(train_last_layers=1))
    set_attention_dropout(model, probability)
    return model.train()


def states(model: Any, seed: int, place: int) -> tuple[torch.Tensor, ...]:
    """Return the hidden states after every layer of one pass."""
    seed_dropout(seed, place)
    found: tuple[torch.Tensor, ...] = model(IDS, output_hidden_states=True).hidden_states
    return found


def test_the_draws_depend_on_seed_and_place_only(folder: Path) -> None:
    model = student(folder, 0.5)
    first = states(model, seed=1, place=7)
    torch.rand(5)  # what else is drawn in between does not matter
    again = states(model, seed=1, place=7)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for seed, place in ((1, 8), (2, 7)):
        other = states(model, seed, place)
        # The first layer is frozen and drops too.
        assert not torch.allclose(first[1], other[1])
        assert not torch.allclose(first[2], other[2])


def test_the_share_of_dropped_weights(folder: Path) -> None:
    """A position that attends to itself only gets its value doubled, or nothing."""
    model = student(folder, 0.5)
    attention = model.model.layers[0].self_attn
    values: list[torch.Tensor] = []
    attention.o_proj.register_forward_pre_hook(lambda _, args: values.append(args[0][0, 0]))
    dropped = []
    for place in range(200):
        states(model, 0, place)
        dropped.append(bool(values[-1].abs().max() == 0))
    num_heads = model.config.num_attention_heads
    assert num_heads >= 1
    # All heads of the first position are dropped together with this probability.
    expected = 0.5**num_heads
    deviation = (expected * (1 - expected) / 200) ** 0.5
    assert abs(sum(dropped) / 200 - expected) < 4 * deviation


def test_evaluation_drops_nothing(folder: Path) -> None:
    model = student(folder, 0.5).eval()
    for first, other in zip(states(model, 1, 7), states(model, 1, 8), strict=True):
        assert torch.equal(first, other)


def test_the_configuration_asks_for_no_dropout(folder: Path) -> None:
    assert student(folder, 0.5).config.attention_dropout == 0


def test_a_model_without_attention_dropout_is_refused(folder: Path) -> None:
    model = student(folder, 0)
    for layer in model.model.layers:
        del layer.self_attn.attention_dropout
    set_attention_dropout(model, 0)
    with pytest.raises(InputError, match=r"attention_dropout = 0\.1, but LlamaForCausalLM has no"):
        set_attention_dropout(model, 0.1)
