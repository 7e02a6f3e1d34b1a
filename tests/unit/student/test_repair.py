"""Which layers are repaired, and that a block's loss is that of the layer inside the teacher."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from dskd_ds.errors import InputError
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.losses.states import DISTANCES
from dskd_ds.models.captured import captured_states, rows_at_layers
from dskd_ds.objective.fused import Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.spec import load_spec, write_spec
from dskd_ds.student.repair import stage
from dskd_ds.student.repair.blocks import RepairBlock, repair_blocks, teacher_layers
from dskd_ds.student.repair.model import RepairStudent
from dskd_ds.student.repair.stage import repair_spec
from dskd_ds.student.replies.feed import Feed

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
GEMMA = Gemma3TextConfig(
    **SIZES,
    head_dim=8,
    sliding_window=3,
    layer_types=["sliding_attention", "full_attention"] * 2,
)
IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10], [9, 1, 2, 30, 31, 5, 6, 7]])
POSITION_IDS = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 0, 1, 2, 3, 4]])
SUPERVISED = torch.tensor([0, 1, 2, 5, 9, 12, 13])


@pytest.mark.parametrize(
    ("kept", "side", "expected"),
    [
        ([0, 1, 2, 3, 4, 5], "after", []),
        ([0, 1, 4, 5], "after", [(2, 2, 5)]),
        ([0, 1, 4, 5], "before", [(1, 1, 4)]),
        ([0, 2, 4, 5], "after", [(1, 1, 3), (2, 3, 5)]),
        ([2, 3, 4, 5], "after", [(0, 0, 3)]),
        ([2, 3, 4, 5], "before", [(0, 0, 3)]),  # nothing is before the gap
        ([0, 1], "after", [(1, 1, 6)]),  # nothing is after it
        ([0, 3], "after", [(1, 1, 4)]),  # one layer between two gaps serves the first
        ([0, 3], "before", [(0, 0, 3), (1, 3, 6)]),
    ],
)
def test_each_gap_has_a_layer(kept: list[int], side: Any, expected: list[Any]) -> None:
    assert repair_blocks(kept, 6, side) == [RepairBlock(*block) for block in expected]


@given(kept=st.sets(st.integers(0, 9), min_size=1), side=st.sampled_from(["after", "before"]))
def test_blocks_lie_beside_gaps_and_come_once(kept: set[int], side: Any) -> None:
    layers = sorted(kept)
    blocks = repair_blocks(layers, 10, side)
    assert [block.layer for block in blocks] == sorted({block.layer for block in blocks})
    for block in blocks:
        # A block covers its own layer of the teacher and at least one that is missing.
        covered = set(range(block.reads, block.gives))
        assert covered & kept == {layers[block.layer]}
        assert len(covered) > 1
    assert bool(blocks) == (len(layers) < 10)


def models_of(config: Any, kept: list[int]) -> tuple[Any, Any]:
    """Return a random teacher, and a student with the layers `kept` and other weights."""
    torch.manual_seed(0)
    teacher = AutoModelForCausalLM.from_config(config).eval()
    student_config = copy.deepcopy(config)
    student_config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        student_config.layer_types = [config.layer_types[layer] for layer in kept]
    return teacher, AutoModelForCausalLM.from_config(student_config)


def targets_of(teacher: Any, layers: tuple[int, ...]) -> TeacherTargets:
    """Return what the teacher sends for `IDS`."""
    everywhere = torch.arange(IDS.numel())
    with torch.no_grad(), captured_states(teacher, layers) as captured:
        teacher.base_model(input_ids=IDS, position_ids=POSITION_IDS, use_cache=False)
    states = rows_at_layers(captured, layers, everywhere)
    return TeacherTargets(SUPERVISED, torch.zeros(0, dtype=torch.int64), layers=states)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), GEMMA], ids=["llama", "gemma3"])
def test_a_blocks_loss_and_gradient_are_those_of_the_layer_inside_the_teacher(
    config: Any, distance: Any
) -> None:
    """Slow version: the student's layer takes the place of the teacher's layer that reads the same
    state, and the whole teacher runs."""
    kept = [1, 3]
    teacher, student = models_of(config, kept)
    blocks = repair_blocks(kept, 4, "after")
    assert blocks == [RepairBlock(0, 0, 2), RepairBlock(1, 2, 4)]
    targets = targets_of(teacher, teacher_layers(blocks))
    if config is GEMMA:  # the mask of a layer follows from its place, so the types must be equal
        teacher.config.layer_types = ["full_attention"] * 4
        targets = targets_of(teacher, teacher_layers(blocks))

    slow_layers = copy.deepcopy(student.base_model.layers)
    slow_losses = []
    for block in blocks:
        slow = copy.deepcopy(teacher)
        slow.base_model.layers[block.reads] = slow_layers[block.layer]
        layer = block.reads + 1
        with captured_states(slow, [layer]) as captured:
            slow.base_model(input_ids=IDS, position_ids=POSITION_IDS, use_cache=False)
        found = captured[layer].flatten(0, 1)[SUPERVISED]
        assert targets.layers is not None
        wanted = targets.layers[teacher_layers(blocks).index(block.gives)][SUPERVISED]
        slow_losses.append(DISTANCES[distance](found, wanted).sum())
    (0.25 * (slow_losses[0] + slow_losses[1]) / 2).backward()

    trained = RepairStudent(student, blocks, distance)
    scales = Scales(token=0.25, sense=0.0)
    loss, sums = trained(IDS, POSITION_IDS, targets, SenseTargets.empty(16), scales)
    loss.backward()
    expected = [value.item() for value in slow_losses]
    assert sums[-2:].tolist() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(0.25 * sum(expected) / 2, rel=1e-5)
    for index, layer in enumerate(trained.language_model.base_model.layers):
        pairs = zip(layer.parameters(), slow_layers[index].parameters(), strict=True)
        for parameter, slow_parameter in pairs:
            torch.testing.assert_close(parameter.grad, slow_parameter.grad, rtol=1e-4, atol=1e-6)
    others = [p for n, p in trained.named_parameters() if ".layers." not in n]
    assert all(not parameter.requires_grad for parameter in others)


def test_the_distances_are_those_of_their_definition() -> None:
    generator = np.random.default_rng(0)
    states, targets = generator.normal(size=(2, 5, 7))
    targets[2] *= 300  # the first token of a document often has such a state
    found = {
        name: distance(torch.tensor(states), torch.tensor(targets)).tolist()
        for name, distance in DISTANCES.items()
    }
    for row in range(5):
        error = np.mean((states[row] - targets[row]) ** 2) / np.var(targets[row])
        assert found["mse"][row] == pytest.approx(error, rel=1e-5)
        norms = np.linalg.norm(states[row]) * np.linalg.norm(targets[row])
        cosine = 1 - float(states[row] @ targets[row]) / norms
        assert found["cosine"][row] == pytest.approx(cosine, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("loss.shuffled_senses=true",),
        ('loss.signal="hidden"', "loss.kd_weight=0"),  # valid only with senses
        ("loss.normalise=sequence", "data.packing=none"),
        ("loss.ce_weight=0", 'loss.divergence="reverse"'),
    ],
    ids=["plain", "shuffled", "senses-alone", "sequence", "reverse"],
)
def test_the_spec_of_a_repair_can_be_read_when_it_is_resumed(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    cut = ("student.layers=first", "student.num_layers=2", "repair.steps=10")
    spec = repair_spec(load_spec("tests/base_run.toml", [*cut, *overrides]))
    write_spec(spec, tmp_path / "spec.toml")
    assert load_spec(tmp_path / "spec.toml") == spec


def test_an_end_of_the_repair_is_noted_before_the_link_says_goodbye(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The goodbye says whether this student comes back; teachers wait for it if it does."""
    called = Mock()
    error = InputError("the text is wrong")
    called.steps.mock_add_spec(Feed)
    for name in ("run_on_rank_0", "blocks_to_repair", "_open_engine", "repair_spec"):
        monkeypatch.setattr(stage, name, Mock())
    monkeypatch.setattr(stage, "_open_training", Mock(return_value=Mock(steps=called.steps)))
    monkeypatch.setattr(stage, "run_steps", Mock(side_effect=error))
    with pytest.raises(InputError):
        stage._train(Mock(), Mock(), Mock(), Mock(note_end=called.note_end))
    assert [name for name, *_ in called.mock_calls] == ["note_end", "steps.close"]
    assert called.note_end.call_args.args[1] is error
