"""Losses below the head: their layers, and their values and gradients against plain autograd."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from dskd_ds.errors import InputError
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.named import RunModels
from dskd_ds.objective.fused import STATS, DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.terms import LayerTermSpec
from dskd_ds.student.counts import Counts
from dskd_ds.student.model import DistillStudent
from dskd_ds.student.terms.layers import LayerTerm, default_teacher_layer, layer_terms
from dskd_ds.student.terms.losses import TermLosses
from tests.conftest import TinyWorld

D, V = 16, 40
IDS = torch.tensor([[3, 4, 5, 6, 7, 8], [9, 1, 2, 30, 31, 5]])
POSITION_IDS = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2]])
SUPERVISED = torch.tensor([0, 1, 2, 6, 9, 10])


def relative_error(state: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (state - target).pow(2).mean(1) / target.var(1, unbiased=False)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 0.0, 2.0, 1.0, 0.25])])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_loss_and_gradients_equal_autograd_in_float64(
    weights: torch.Tensor | None, is_checkpointed: bool
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    slow = copy.deepcopy(model).double()
    if is_checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    # The teacher's layers 2 and 5: the first two terms share one of them.
    terms = [
        LayerTerm(LayerTermSpec(kind="cosine", student_layer=2, weight=0.5), 5),
        LayerTerm(LayerTermSpec(kind="mse", student_layer=2, weight=0.1), 5),
        LayerTerm(LayerTermSpec(kind="mse", student_layer=1, weight=0.3), 2),
    ]
    states = torch.randn(2, len(SUPERVISED), D)
    spec = LossSpec(signal="hidden", kd_weight=0.0, sense_weight=0.0)
    losses = TermLosses(terms)
    student = DistillStudent(model, DistillObjective(model.lm_head.weight, spec, 1.0), losses)
    targets = torch.arange(len(SUPERVISED))
    teacher = TeacherTargets(SUPERVISED, targets, weights=weights, layers=states)
    scales = Scales(token=0.2, sense=0.0)
    loss, sums = student(IDS, POSITION_IDS, teacher, SenseTargets.empty(D), scales)
    loss.backward()

    output = slow(
        input_ids=IDS, position_ids=POSITION_IDS, output_hidden_states=True, use_cache=False
    )
    hidden = [state.flatten(0, 1)[SUPERVISED] for state in output.hidden_states]
    logits = output.logits.flatten(0, 1)[SUPERVISED]
    low, high = states.double()
    factor = torch.ones(len(SUPERVISED)).double() if weights is None else weights.double()

    cosine = 1 - (hidden[2] * high).sum(1) / (hidden[2].norm(dim=1) * high.norm(dim=1))
    values = [cosine, relative_error(hidden[2], high), relative_error(hidden[1], low)]
    expected = [(factor * value).sum() for value in values]
    ce = (factor * torch.nn.functional.cross_entropy(logits, targets, reduction="none")).sum()
    slow_loss = 0.2 * (ce + 0.5 * expected[0] + 0.1 * expected[1] + 0.3 * expected[2])
    slow_loss.backward()

    assert loss.item() == pytest.approx(slow_loss.item(), rel=1e-5)
    assert sums[len(STATS) :].tolist() == pytest.approx([v.item() for v in expected], rel=1e-5)
    pairs = zip(model.parameters(), slow.parameters(), strict=True)
    for parameter, slow_parameter in pairs:
        gradient = slow_parameter.grad.float()
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)

    total = dict(zip(student.stat_names, sums.tolist(), strict=True))
    record = student.loss_record(total, Counts(tokens=5, senses=0))
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert record["loss_layer_2_cosine"] == pytest.approx(expected[0].item() / 5, rel=1e-5)
    assert record["weight_layer_1_mse"] == 0.3


def test_terms_go_beside_the_other_signals() -> None:
    """The targets of the head and those of the layers are different rows of one reply."""
    plain = TeacherTargets(SUPERVISED, SUPERVISED, TeacherStates(torch.zeros(6, D)))
    assert plain[0:2].layers is None
    assert plain.to(torch.device("cpu")).layers is None


@pytest.mark.parametrize(
    ("kept", "student_layer", "expected"),
    [
        ([0, 1, 4, 5], 1, 1),
        ([0, 1, 4, 5], 2, 4),  # in front of the gap: what layer 5 was made to read
        ([0, 1, 4, 5], 3, 5),
        ([0, 1, 4, 5], 4, 6),
        ([0, 1, 2], 3, 6),  # the last layer stands for all that were cut off
    ],
)
def test_the_target_is_what_the_next_kept_layer_reads(
    kept: list[int], student_layer: int, expected: int
) -> None:
    assert default_teacher_layer(kept, student_layer, 6) == expected


def with_terms(tiny: TinyWorld, run_dir: Path, *terms: str) -> RunSpec:
    """Return the tiny spec of a student that keeps the teacher's first two layers."""
    (run_dir / "student_init").mkdir(parents=True, exist_ok=True)
    origin = {"made_from": {}, "kept_layers": [0, 1]}
    (run_dir / "student_init" / "origin.json").write_text(json.dumps(origin))
    overrides = [f'run_dir="{run_dir}"', "student.layers=first", f"loss.terms=[{','.join(terms)}]"]
    return load_spec(tiny.spec_file, overrides)


def test_layers_are_looked_up_in_the_cut_student(tiny: TinyWorld, tmp_path: Path) -> None:
    spec = with_terms(
        tiny,
        tmp_path,
        '{kind="mse",student_layer=1,weight=1.0}',
        '{kind="cosine",student_layer=2,weight=1.0}',
        '{kind="mse",student_layer=2,teacher_layer=3,weight=1.0}',
    )
    terms = layer_terms(spec, RunModels.of(spec))
    assert [term.teacher_layer for term in terms] == [1, 4, 3]


@pytest.mark.parametrize(
    ("term", "reason"),
    [
        ('{kind="mse",student_layer=3,weight=1.0}', "student_layer = 3, but the student has 2"),
        (
            '{kind="mse",student_layer=1,teacher_layer=5,weight=1.0}',
            "teacher_layer = 5, but the teacher has 4",
        ),
    ],
)
def test_a_layer_that_does_not_exist_is_refused(
    tiny: TinyWorld, tmp_path: Path, term: str, reason: str
) -> None:
    spec = with_terms(tiny, tmp_path, term)
    with pytest.raises(InputError, match=reason):
        layer_terms(spec, RunModels.of(spec))


def test_a_term_below_all_trained_layers_is_refused(tiny: TinyWorld, tmp_path: Path) -> None:
    spec = with_terms(tiny, tmp_path, '{kind="mse",student_layer=1,weight=1.0}')
    frozen = spec.student.model_copy(update={"train_last_layers": 1})
    spec = spec.model_copy(update={"student": frozen})
    with pytest.raises(InputError, match="trains none of the first 1 of 2 layers"):
        layer_terms(spec, RunModels.of(spec))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            [
                'loss.terms=[{kind="mse",student_layer=1,weight=1.0},'
                '{kind="mse",student_layer=1,weight=2.0}]'
            ],
            "an earlier term has kind",
        ),
        (
            ['loss.terms=[{kind="mse",student_layer=1,weight=1.0,decay=[0.5,0.5]}]'],
            "the first share of the run is not smaller",
        ),
        (
            ['loss.terms=[{kind="mse",student_layer=1,weight=1.0}]', "teacher.block_by_block=true"],
            "states of layers are not sent block by block",
        ),
        (["repair.steps=3", "student.layers=all"], "the student is not cut from the teacher"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tiny: TinyWorld, overrides: list[str], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        load_spec(tiny.spec_file, overrides)
