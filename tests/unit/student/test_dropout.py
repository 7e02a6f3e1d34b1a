"""Dropout: of attention only, in all layers while training, keyed by seed and place."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, Starcoder2Config

from dskd_ds.errors import InputError
from dskd_ds.models.named import NamedModel
from dskd_ds.spec import load_spec
from dskd_ds.spec.models import StudentSpec
from dskd_ds.student.counts import Counts
from dskd_ds.student.dropout import seed_dropout, set_dropout
from dskd_ds.student.engine import take_step
from dskd_ds.student.model import freeze
from dskd_ds.student.repair import stage
from dskd_ds.student.repair.blocks import RepairBlock
from dskd_ds.student.replies.feed import StepInput
from tests.conftest import TinyWorld, write_model

IDS = torch.arange(1, 13)[None]


@pytest.fixture(scope="module")
def folder(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("dropout"), tiny.folder, num_layers=2, seed=5)


def student(folder: Path, probability: float) -> Any:
    """Return a student that trains only its last layer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    freeze(model, StudentSpec(train_last_layers=1))
    set_dropout(model, probability)
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


STARCODER = Starcoder2Config(
    vocab_size=20,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    attention_dropout=0.5,
    residual_dropout=0.5,
    embedding_dropout=0.5,
)
NEOX = GPTNeoXConfig(
    vocab_size=20,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    hidden_dropout=0.5,
)
"""Its dropouts are modules."""


@pytest.mark.parametrize("config", [STARCODER, NEOX], ids=["starcoder2", "neox"])
def test_no_other_dropout_of_the_configuration_acts(config: Any) -> None:
    model = AutoModelForCausalLM.from_config(config).train()
    set_dropout(model, 0.0)
    for first, other in zip(states(model, 1, 7), states(model, 1, 8), strict=True):
        assert torch.equal(first, other)


def test_the_repair_drops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_config(STARCODER)
    monkeypatch.setattr(stage, "load_language_model", lambda *_args: model)
    monkeypatch.setattr(stage, "open_engine", lambda module, _config: module.train())
    spec = load_spec("tests/base_run.toml", ["student.attention_dropout=0.5"])
    stage._open_engine(spec, NamedModel("made"), [RepairBlock(1, 1, 3)])
    repaired = model.model.layers[1]
    assert repaired.self_attn.attention_dropout == repaired.mlp.residual_dropout == 0.0


def test_each_micro_batch_is_seeded_whatever_draws_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some models (Falcon) read a dropout from their configuration in every pass."""
    drawn: list[float] = []
    engine = MagicMock(device="cpu", optimizer=None)
    engine.module.stat_names = ()
    engine.is_gradient_accumulation_boundary.return_value = False

    def forward(*_args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        drawn.append(float(torch.rand(())))
        return torch.zeros(()), torch.zeros(0)

    engine.side_effect = forward
    monkeypatch.setattr("dskd_ds.student.engine.update_or_skip", lambda *_args: None)
    spec = load_spec("tests/base_run.toml")
    batches: Any = [Mock(place=place) for place in (0, 4, 0)]
    take_step(spec, engine, StepInput(batches, 0.0, 0.0, 0), Counts(1, 1))
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_model_without_attention_dropout_is_refused(folder: Path) -> None:
    model = student(folder, 0)
    for layer in model.model.layers:
        del layer.self_attn.attention_dropout
    set_dropout(model, 0)
    with pytest.raises(InputError, match=r"attention_dropout = 0\.1, but LlamaForCausalLM has no"):
        set_dropout(model, 0.1)
