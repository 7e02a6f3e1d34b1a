"""Runs fake steps of the student and the teacher on a device that does not exist.

    python -m tests.unit.plan.pretend_worker

A process of its own, because torch then takes the device for the machine's accelerator. Prints a
JSON object: for each case "ok", or the name and the message of the error.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import AutoConfig

from dskd_ds.losses import sense, token
from dskd_ds.objective import fused
from dskd_ds.objective.fused import Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.plan import fake_student as fake
from dskd_ds.signals.parts.draws import take_draws
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.replies.feed import MicroBatch

SIZES = fake.FakeSizes(teacher_size=64, dtype=torch.bfloat16, num_sense_positions=8)
WIDER = fake.FakeSizes(teacher_size=96, dtype=torch.bfloat16, num_sense_positions=8)
SIGNALS = {
    "topk": [],
    "topk at another temperature": ["loss.temperature=2"],
    "topk reverse": ["loss.divergence=reverse"],
    "topk Jensen-Shannon": ["loss.divergence=jensen_shannon"],
    "exact": ["loss.signal=exact"],
    "exact reverse": ["loss.signal=exact", "loss.divergence=reverse", "loss.temperature=2"],
    "sampled": ["loss.signal=sampled"],
    "hidden": ["loss.signal=hidden", "loss.kd_weight=0"],
    "frozen layers": ["student.train_last_layers=1"],
    "frozen embeddings": ["student.train_embeddings=false"],
    "weights by the teacher": ["loss.sense_weighting=teacher_probability"],
}


def config() -> Any:
    """Return a tiny Llama's configuration."""
    return AutoConfig.for_model(
        "llama",
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )


def spec_with(*overrides: str) -> RunSpec:
    sizes = ["data.block_tokens=32", "train.global_batch_blocks=2"]
    return load_spec("tests/base_run.toml", [*sizes, *overrides])


def student_step(spec: RunSpec, sizes: fake.FakeSizes = SIZES) -> None:
    """Make a micro-batch on the CPU, move it as the feed does, and run forward and backward."""
    device = fake.pretend_device()
    with fake.fake_tensors():
        student = fake.fake_student(spec, config(), sizes, device)
        ids, positions, teacher, senses = fake.fake_batch(
            spec, config(), sizes, torch.device("cpu")
        )
        # Page-locked memory is the real accelerators'; what is moved is the same.
        with mock.patch("dskd_ds.student.replies.feed.pinned", _same):
            batch = MicroBatch(ids, positions, teacher, senses).to(device)
        loss, stats = student(
            batch.input_ids, batch.position_ids, batch.teacher, batch.senses, Scales(1.0, 1.0)
        )
        loss.backward()
        found = {loss.device.type, stats.device.type}
        trained = [weight for weight in student.parameters() if weight.requires_grad]
        found |= {weight.grad.device.type for weight in trained if weight.grad is not None}
        assert found == {fake.PRETEND}, found
        assert all(weight.grad is not None for weight in trained)


def teacher_signal() -> None:
    """Take every part of a reply from logits and states on the device."""
    device = fake.pretend_device()
    with fake.fake_tensors(unknown_sizes=True):
        logits = torch.zeros(6, 128, dtype=torch.bfloat16, device=device)
        top_k = take_top_k(logits, 8, (2.0, 1.0))
        assert top_k.ids.device.type == fake.PRETEND
        draws = take_draws(logits, 1.0, torch.zeros(6, 5, dtype=torch.float64))
        assert draws.ids.device.type == "cpu"  # draws are counted on the CPU
        on_cpu = top_k.to(torch.device("cpu"))
        assert {getattr(on_cpu, field.name).device.type for field in fields(on_cpu)} == {"cpu"}


def _same(value: Any) -> Any:
    return value


@contextlib.contextmanager
def planted_cpu_call() -> Iterator[None]:
    """A softmax of the objective that goes through the CPU."""
    real = token.tail_divergence_

    def slow(logits: Tensor, *rest: Any) -> Any:
        return real(logits.cpu(), *rest)

    with mock.patch.object(token, "tail_divergence_", slow):
        yield


@contextlib.contextmanager
def planted_constant() -> Iterator[None]:
    """A sense term that multiplies by a constant which was made on the CPU."""
    real = sense.sense_loss

    def scaled(hidden: Tensor, *rest: Any) -> Any:
        return real(hidden * torch.ones(hidden.shape[1]), *rest)

    with mock.patch.object(fused, "sense_loss", scaled):
        yield


@contextlib.contextmanager
def planted_in_feed() -> Iterator[None]:
    """A feed that leaves the targets where they are."""

    def left(targets: TeacherTargets, device: torch.device) -> TeacherTargets:
        del device
        return targets

    with mock.patch.object(TeacherTargets, "to", left):
        yield


@contextlib.contextmanager
def planted_constant_in_feed() -> Iterator[None]:
    """A feed that adds weights of the positions which were made on the CPU."""
    real = TeacherTargets.to

    def weighted(targets: TeacherTargets, device: torch.device) -> TeacherTargets:
        moved = real(targets, device)
        ones = torch.ones(len(moved.positions))
        return TeacherTargets(moved.positions, moved.targets, moved.signal, ones)

    with mock.patch.object(TeacherTargets, "to", weighted):
        yield


PLANTED = {
    "planted: .cpu() in the objective": planted_cpu_call,
    "planted: a constant in the objective": planted_constant,
    "planted: targets left behind by the feed": planted_in_feed,
    "planted: a constant in the feed": planted_constant_in_feed,
}


def result_of(work: Callable[[], None]) -> str:
    """Return "ok", or the error's name and first line."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return "ok"


def main() -> None:
    """Run all cases and print the results."""
    results: dict[str, str] = {}
    for name, overrides in SIGNALS.items():
        results[name] = result_of(partial(student_step, spec_with(*overrides)))
    results["another hidden size"] = result_of(partial(student_step, spec_with(), WIDER))
    results["teacher's signal"] = result_of(teacher_signal)
    for name, planted in PLANTED.items():
        with planted():
            results[name] = result_of(partial(student_step, spec_with()))
    print(json.dumps(results), flush=True)
    os._exit(0)  # torch aborts when the interpreter unloads a pretended device


if __name__ == "__main__":
    main()
