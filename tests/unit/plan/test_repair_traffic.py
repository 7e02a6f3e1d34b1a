"""The bytes that the plan promises for a repair are those of the real arrays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dskd_ds.data.batches import Sample, make_batch
from dskd_ds.plan.repair_traffic import repair_line
from dskd_ds.signals.parts.layers import layer_arrays
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.repair.blocks import repair_blocks, teacher_layers
from dskd_ds.student.repair.requests import RepairRequests

D, T, LAYERS = 100, 8, 6


class Teacher:
    """The sizes of a teacher."""

    num_layers, hidden_size = LAYERS, D


def spec_with(*overrides: str) -> RunSpec:
    return load_spec("tests/base_run.toml", ["repair.steps=5", *overrides])


@pytest.mark.parametrize("hidden_format", ["bfloat16", "float8"])
@pytest.mark.parametrize("side", ["after", "before"])
def test_bytes_per_token_are_those_of_request_and_reply(hidden_format: Any, side: str) -> None:
    spec = spec_with(
        "student.layers=first",
        "student.num_layers=4",
        f"repair.side={side}",
        f"link.hidden_format={hidden_format}",
    )
    layers = teacher_layers(repair_blocks(range(4), LAYERS, spec.repair.side))
    requests = RepairRequests(layers, hidden_format, vocab_size=50, hidden_size=D)
    row: Any = {"input_ids": list(range(T)), "segment_starts": [0], "unsupervised": []}
    request = requests.request(make_batch([row], [Sample(0, 0)]))
    reply = layer_arrays(torch.zeros(len(layers), T, D), request.wanted)
    num_bytes = sum(array.nbytes for array in (*request.arrays.values(), *reply.values()))
    line = repair_line(spec, Teacher())  # type: ignore[arg-type]
    expected = f"states of {len(layers)} layers = {num_bytes // T:,} bytes per token"
    assert line == f"repair: 5 steps before training; {expected}"


def test_layers_that_are_not_known_yet_give_a_bound() -> None:
    line = repair_line(spec_with("student.num_layers=4"), Teacher())  # type: ignore[arg-type]
    # Two gaps, each with two states.
    assert line is not None
    assert "states of at most 4 layers = 812 bytes per token" in line
    assert repair_line(spec_with("repair.steps=0"), Teacher()) is None  # type: ignore[arg-type]
