"""ZeRO-3 with accumulation and small buckets gives the gradients of one process without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dskd_ds.models.named import RunModels
from dskd_ds.objective.fused import Scales
from tests.conftest import TinyWorld, write_model
from tests.processes import parity_worker, term_case
from tests.processes.conftest import Launch, ranks

pytestmark = pytest.mark.process


def single_process(
    model: str, teacher: str | None, frozen: str, run_dir: str | None
) -> dict[str, torch.Tensor]:
    """Return the gradients of the same blocks from plain autograd."""
    from transformers import AutoModelForCausalLM

    from dskd_ds.objective.fused import DistillObjective
    from dskd_ds.student.model import DistillStudent, freeze, sense_map
    from dskd_ds.student.terms.layers import layer_terms
    from dskd_ds.student.terms.losses import TermLosses
    from dskd_ds.student.terms.maps import term_maps

    spec = parity_worker.spec_of(model, teacher, frozen, run_dir=run_dir)
    language_model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    freeze(language_model, spec.student)
    teacher_size, size = parity_worker.sizes(spec)[1], language_model.config.hidden_size
    mapping = sense_map(spec, teacher_size, size)
    terms = layer_terms(spec, RunModels.of(spec))
    student = DistillStudent(
        language_model,
        DistillObjective(
            language_model.get_output_embeddings().weight, spec.loss, 2.0, sense_map=mapping
        ),
        TermLosses(terms, term_maps(terms, teacher_size, size, torch.float32, spec.seed)),
    )
    parity_worker.start_map(student)
    blocks = parity_worker.blocks_of(spec)
    tokens, senses = (sum(len(b[part].positions) for b in blocks) for part in (1, 2))
    for ids, teacher_targets, sense_targets in blocks:
        loss, _ = student(
            ids,
            torch.arange(parity_worker.LENGTH)[None],
            teacher_targets,
            sense_targets,
            Scales(1 / tokens, 1 / senses),
        )
        loss.backward()
    return {
        name: p.grad
        for name, p in student.named_parameters()
        if p.requires_grad and p.grad is not None
    }


PLAIN = {
    "tied": True,
    "frozen": "nothing",
    "other_size": False,
    "compiled": False,
    "below_head": False,
}


@pytest.mark.parametrize(
    ("num_ranks", "changes"),
    [
        (1, [{}]),
        (
            2,
            [
                {},
                {"tied": False},
                {"frozen": "first layer", "other_size": True},
                {"frozen": "embeddings", "tied": False},
                {"below_head": True},
                {"below_head": True, "other_size": True},
                {"compiled": True},
            ],
        ),
        (3, [{"other_size": True}]),
    ],
    ids=[
        "1 rank, tied",
        "2 ranks, tied, untied, frozen head and a map, frozen embeddings, losses below the head, "
        "also with maps, compiled",
        "3 ranks, tied, a map",
    ],
)
def test_gradients_equal_those_of_a_single_process(
    tiny: TinyWorld, launch: Launch, tmp_path: Path, num_ranks: int, changes: list[dict[str, Any]]
) -> None:
    """With 6, 3 or 2 accumulation steps, and buckets smaller than most parameters."""
    wanted = [PLAIN | change for change in changes]
    cases = [prepare(tiny, tmp_path / str(number), **case) for number, case in enumerate(wanted)]
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(cases))
    command = ranks(num_ranks, "tests/processes/parity_worker.py", "--cases", str(file))
    assert launch(*command, marker=str(file)).code == 0
    for case, want in zip(cases, wanted, strict=True):
        found = torch.load(case["out"], weights_only=True)
        expected = single_process(case["model"], case["teacher"], case["frozen"], case["run_dir"])
        assert found.keys() == expected.keys()
        assert ("language_model.lm_head.weight" in found) == (
            not want["tied"] and want["frozen"] == "nothing"
        )
        assert ("objective.sense_map" in found) == want["other_size"]
        has_maps = want["below_head"] and want["other_size"]
        num_maps = len([name for name in found if name.startswith("term_losses.maps.")])
        assert num_maps == (len(term_case.KINDS) - 1 if has_maps else 0)
        for name, gradient in expected.items():
            assert gradient.abs().sum() > 0, name
            torch.testing.assert_close(
                found[name],
                gradient,
                rtol=1e-4,
                atol=1e-6,
                msg=lambda text, name=name: f"{name}: {text}",
            )


def prepare(
    tiny: TinyWorld,
    folder: Path,
    tied: bool,
    frozen: str,
    other_size: bool,
    compiled: bool,
    below_head: bool,
) -> dict[str, Any]:
    """Write the models of a case, and return the case as the worker reads it."""
    model = write_model(folder / "model", tiny.folder, num_layers=2, seed=5, tied=tied)
    teacher = (
        write_model(folder / "teacher", tiny.folder, num_layers=2, seed=6, hidden_size=48)
        if other_size
        else None
    )
    if below_head:
        term_case.write_origin(folder / "run")
    return {
        "model": str(model),
        "run_dir": str(folder / "run") if below_head else None,
        "teacher": str(teacher) if teacher else None,
        "frozen": frozen,
        "compiled": compiled,
        "out": str(folder / "gradients.pt"),
    }
