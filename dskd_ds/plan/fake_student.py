"""A student without numbers: fake tensors have shapes, formats and devices, but no memory.

It is the very module that is trained, so its step tells what memory a step takes, and whether a
tensor on the CPU meets one on the device, for models of any size and without a GPU. Fake tensors,
torch's memory tracker and devices of one's own are private API of torch: this file alone uses them
(tried with torch 2.13).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from dskd_ds.losses.distributions import Sampled, TopK
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.head import FrozenHead
from dskd_ds.objective.fused import Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.signals.kind import Targets
from dskd_ds.spec import RunSpec
from dskd_ds.student.model import DistillStudent, assemble_student

PRETEND = "pretend"
"""Name of a device that exists only for fake tensors."""


@dataclass(frozen=True)
class FakeSizes:
    """Sizes of a fake step that do not follow from the student's configuration."""

    teacher_size: int
    """The teacher's hidden size."""
    dtype: torch.dtype
    """Of the student."""
    num_sense_positions: int = 0


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a fake forward and backward pass, beside the weights."""

    kept: int
    """Kept between forward and backward pass: activations, and the objective's gradients."""
    peak: int
    """The most at any moment, with all gradients of the weights that exist then."""
    gradients: int
    """Gradients of the weights at that moment."""


@contextmanager
def fake_tensors(unknown_sizes: bool = False) -> Iterator[None]:
    """Create only fake tensors inside of the context; real ones may meet them as inputs.

    unknown_sizes: allow sizes that depend on values, as of the rows that a mask selects.
    """
    shapes = ShapeEnv() if unknown_sizes else None
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes):
        yield


def pretend_device() -> torch.device:
    """Return a device that has no memory, for fake tensors; made on the first call."""
    if torch._C._get_privateuse1_backend_name() != PRETEND:
        _setup_privateuseone_for_python_backend(PRETEND)
    return torch.device(PRETEND)


def step_memory(spec: RunSpec, config: Any, sizes: FakeSizes) -> StepMemory:
    """Return the memory of one micro-batch of the student on a CPU.

    config: the student's transformers configuration, with the layers that it keeps.
    """
    with fake_tensors():
        student = fake_student(spec, config, sizes, torch.device("cpu"))
        batch = fake_batch(spec, config, sizes, torch.device("cpu"))
        tracker = MemTracker()
        tracker.track_external(student)
        with tracker:
            loss, _ = student(*batch, Scales(token=1.0, sense=1.0))
            kept = _bytes_by_kind(tracker, "current")
            loss.backward()
    peak = _bytes_by_kind(tracker, "peak")
    weights = sum(parameter.nbytes for parameter in student.parameters())
    return StepMemory(
        kept=kept["ACT"] + kept["TEMP"],
        peak=peak["Total"] - weights,
        gradients=peak["GRAD"],
    )


def fake_student(
    spec: RunSpec, config: Any, sizes: FakeSizes, device: torch.device
) -> DistillStudent:
    """Return the run's student with fake weights on a device. Call it inside of `fake_tensors`."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=sizes.dtype)
    materialise(model, device)
    head = None
    if spec.loss.signal == "exact":
        vocab_size = config.get_text_config().vocab_size
        weight = torch.empty(vocab_size, sizes.teacher_size, dtype=sizes.dtype, device=device)
        head = FrozenHead(weight)
    student = assemble_student(spec, model, 1.0, teacher_head=head, teacher_size=sizes.teacher_size)
    if student.objective.sense_map is not None:
        materialise(student.objective, device)
    return student.train()


def materialise(module: nn.Module, device: torch.device) -> None:
    """Give each weight and buffer of a module fake memory on a device.

    They are replaced, because fake tensors cannot be moved. Weights that are shared stay shared.
    """
    replaced: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is None or parameter.device.type == device.type:
                continue
            if id(parameter) not in replaced:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                replaced[id(parameter)] = nn.Parameter(fake, parameter.requires_grad)
            part._parameters[name] = replaced[id(parameter)]
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)


def fake_batch(
    spec: RunSpec, config: Any, sizes: FakeSizes, device: torch.device
) -> tuple[Tensor, Tensor, TeacherTargets, SenseTargets]:
    """Return one micro-batch of a run whose every position has a target.

    Call it inside of `fake_tensors`.
    """
    rows, length = spec.train.micro_batch_blocks, spec.data.block_tokens
    ids = torch.zeros(rows, length, dtype=torch.int64, device=device)
    count = rows * length
    vocab_size = config.get_text_config().vocab_size
    teacher = TeacherTargets(
        positions=torch.arange(count, device=device),
        targets=torch.zeros(count, dtype=torch.int64, device=device),
        signal=_signal(spec, count, vocab_size, sizes, device),
    )
    return ids, torch.zeros_like(ids), teacher, _senses(spec, sizes, device)


def _signal(
    spec: RunSpec, count: int, vocab_size: int, sizes: FakeSizes, device: torch.device
) -> Targets | None:
    """Return the targets of the run's signal kind at `count` positions."""
    loss = spec.loss
    if loss.signal == "topk":
        width = min(loss.top_k, vocab_size)
        return TopK(
            ids=torch.zeros(count, width, dtype=torch.int64, device=device),
            logits=torch.zeros(count, width, dtype=torch.float16, device=device),
            tail=torch.zeros(count, 1 if loss.temperature == 1 else 2, device=device),
        )
    if loss.signal == "exact":
        states = torch.zeros(count, sizes.teacher_size, dtype=torch.bfloat16, device=device)
        return TeacherStates(states)
    if loss.signal == "sampled":
        width = min(loss.num_draws, vocab_size)
        return Sampled(
            ids=torch.zeros(count, width, dtype=torch.int64, device=device),
            weights=torch.zeros(count, width, device=device),
            log_probs=torch.zeros(count, device=device),
        )
    return None


def _senses(spec: RunSpec, sizes: FakeSizes, device: torch.device) -> SenseTargets:
    """Return senses at `num_sense_positions` positions, with full S+ and S-."""
    count, size = sizes.num_sense_positions, sizes.teacher_size
    if not count:
        return SenseTargets.empty(size).to(device)
    num_push = spec.senses.kappa * (2 if spec.senses.candidates == "hybrid" else 1)
    return SenseTargets(
        positions=torch.arange(count, device=device),
        weights=torch.ones(count, device=device),
        pull_mean=torch.zeros(count, size, device=device),
        pull_spread=torch.zeros(count, device=device),
        has_pull=torch.ones(count, dtype=torch.bool, device=device),
        push=torch.zeros(count, num_push, size, dtype=torch.bfloat16, device=device),
        push_norms=torch.zeros(count, num_push, device=device),
        push_mask=torch.ones(count, num_push, dtype=torch.bool, device=device),
    )


def _bytes_by_kind(tracker: MemTracker, moment: str) -> dict[str, int]:
    """Return the tracker's bytes by kind (ACT, GRAD, PARAM, TEMP, Total) on its one device."""
    found: dict[str, int] = {}
    for snapshot in tracker.get_tracker_snapshot(moment).values():
        for kind, size in snapshot.items():
            name = str(kind).rsplit(".", 1)[-1]
            found[name] = found.get(name, 0) + size
    return found
