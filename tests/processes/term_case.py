"""Losses below the head for the test of gradient parity: one of each kind, with random senses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from dskd_ds.losses.sense import SenseTargets
from dskd_ds.losses.senses_at_layer import SenseCandidates, TermSenses
from dskd_ds.objective.targets import TeacherTargets

NUM_SENSES, NUM_CANDIDATES = 6, 4
KINDS = ("cosine", "mse", "gram", "sense", "posterior", "contrast")
"""In the order of the spec; `mse` is smoothed. The first two layers of the teacher are compared."""


def settings(run_dir: str) -> list[str]:
    """Return the overrides of a run with these terms, and with activation checkpointing."""
    terms = []
    for number, kind in enumerate(KINDS):
        keys = f'kind="{kind}",student_layer={1 + number % 2},teacher_layer={1 + number % 2}'
        if kind not in ("cosine", "gram"):
            keys += ',dictionary="unused"'
        if kind == "mse":
            keys += ",smoothing=0.5"
        terms.append(f"{{{keys},weight={0.3 + 0.1 * number}}}")
    return [
        f"run_dir={run_dir}",
        f"loss.terms=[{','.join(terms)}]",
        "student.activation_checkpointing=true",
    ]


def write_origin(run_dir: Path) -> None:
    """Say that the student has the first two layers of its teacher."""
    folder = run_dir / "student_init"
    folder.mkdir(parents=True)
    (folder / "origin.json").write_text(json.dumps({"made_from": {}, "kept_layers": [0, 1]}))


def random_senses(num_positions: int, size: int, draw: torch.Generator) -> SenseTargets:
    """Return senses at the first positions, drawn from a generator. size: their dimensions."""
    push = torch.randn(num_positions, 2, size, generator=draw)
    return SenseTargets(
        torch.arange(num_positions),
        torch.ones(num_positions),
        torch.randn(num_positions, size, generator=draw),
        torch.zeros(num_positions),
        torch.ones(num_positions).bool(),
        push,
        push.square().sum(2),
        torch.ones(num_positions, 2).bool(),
    )


def with_terms(teacher: TeacherTargets, number: int, size: int) -> TeacherTargets:
    """Return the targets of a block with states of two layers and senses, drawn from its number.

    size: dimensions of the states.
    """
    draw = torch.Generator().manual_seed(1000 + number)
    num_positions = len(teacher.positions)
    layers = torch.randn(2, num_positions, size, generator=draw)
    senses = torch.randn(NUM_SENSES, size, generator=draw).bfloat16()
    index = torch.randint(0, NUM_SENSES, (num_positions, NUM_CANDIDATES), generator=draw)
    candidates = SenseCandidates(
        senses=senses,
        norms=senses.float().square().sum(1),
        index=index,
        mask=torch.ones_like(index).bool(),
        own=(torch.arange(NUM_CANDIDATES) < 2).expand_as(index),
        distances=torch.rand(index.shape, generator=draw),
        spread=torch.tensor(0.5),
    )
    pull_and_push = random_senses(min(3, num_positions), size, draw)
    learned = {
        "mse": TermSenses(smoothed=torch.randn(num_positions, size, generator=draw)),
        "sense": TermSenses(senses=pull_and_push, margin=2.0),
        "posterior": TermSenses(candidates=candidates),
        "contrast": TermSenses(candidates=candidates),
    }
    return replace(teacher, layers=layers, terms=tuple(learned.get(kind) for kind in KINDS))
