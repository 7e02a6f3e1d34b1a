"""What the objective allocates, and that it makes no other device wait for the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dskd_ds.losses.distributions import Sampled, TopK
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.head import FrozenHead
from dskd_ds.objective.chunk import Chunks
from dskd_ds.objective.fused import DistillObjective, Scales
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import LossSpec
from tests.unit.losses.test_sense import D
from tests.unit.losses.test_token import V, draw, drawn


class NoCopies(TorchFunctionMode):
    """Refuses what would be a blocking copy from the host to a GPU.

    Reading a meta tensor's content raises in any case, because it has none.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        copies = (Tensor.new_tensor, torch.tensor, torch.as_tensor)
        assert func not in copies, "a copy from the host"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("signal", ["topk", "exact", "sampled", "hidden"])
@pytest.mark.parametrize(("device", "blocks"), [("cpu", [32, 18, 10]), ("meta", [50, 10])])
def test_only_a_cpu_works_in_small_blocks_and_no_other_device_is_waited_for(
    signal: str, device: str, blocks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    found: list[int] = []
    original = Chunks._block_

    def recorded(self: Chunks, product: Tensor, *rest: Any) -> Any:
        found.append(len(product))
        return original(self, product, *rest)

    monkeypatch.setattr(Chunks, "_block_", recorded)
    ids, k_ids = zeros(60, dtype=torch.long), zeros(60, 5, dtype=torch.long)
    signals = {
        "topk": TopK(k_ids, zeros(60, 5), zeros(60, 1)),
        "exact": TeacherStates(zeros(60, D)),
        "sampled": Sampled(k_ids, zeros(60, 5), zeros(60)),
        "hidden": None,
    }
    senses = SenseTargets(
        positions=ids[:3],
        weights=zeros(3),
        pull_mean=zeros(3, D),
        pull_spread=zeros(3),
        has_pull=zeros(3).bool(),
        push=zeros(3, 2, D),
        push_norms=zeros(3, 2),
        push_mask=zeros(3, 2).bool(),
    )
    kd_weight = 0 if signal == "hidden" else 0.7
    spec = LossSpec(signal=signal, top_k=5, kd_weight=kd_weight, chunk_positions=50)
    teacher_head = FrozenHead(zeros(V, D)) if signal == "exact" else None
    weight = torch.nn.Parameter(zeros(V, D))
    objective = DistillObjective(weight, spec, 1.0, teacher_head=teacher_head)
    hidden = zeros(1, 70, D).requires_grad_()
    teacher = TeacherTargets(ids, ids, signals[signal])
    with NoCopies():
        loss, _ = objective(hidden, teacher, senses, Scales(1.0, 1.0))
        loss.backward()
    assert hidden.grad is not None
    assert found == blocks


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("signal", ["topk", "exact", "sampled"])
def test_no_tensor_is_larger_than_a_chunk_of_logits(signal: str) -> None:
    positions, vocab, chunk = 64, 400, 8
    hidden = draw(0, 1, positions, D).requires_grad_()
    weight = torch.nn.Parameter(draw(1, vocab, D))
    teacher_logits, targets = draw(2, positions, vocab), torch.zeros(positions, dtype=torch.long)
    signals = {
        "topk": take_top_k(teacher_logits, 5, (1.0,)),
        "exact": TeacherStates(draw(3, positions, D)),
        "sampled": drawn(teacher_logits, 5),
    }
    teacher = TeacherTargets(torch.arange(positions), targets, signals[signal])
    teacher_head = FrozenHead(draw(4, vocab, D)) if signal == "exact" else None
    spec = LossSpec(signal=signal, top_k=5, chunk_positions=chunk)
    objective = DistillObjective(weight, spec, 1.0, teacher_head=teacher_head)
    with Largest() as largest:
        objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))[0].backward()
    assert largest.numel <= chunk * vocab


def test_the_weights_gradient_is_the_buffer_it_was_added_up_in() -> None:
    """There is no second [V, D]: autograd keeps the tensor that backward returns."""
    hidden, weight = draw(0, 1, 7, D).requires_grad_(), torch.nn.Parameter(draw(1, 40_000, D))
    spec = LossSpec(signal="hidden", kd_weight=0, chunk_positions=8)
    objective = DistillObjective(weight, spec, 1.0)
    teacher = TeacherTargets(torch.arange(7), torch.arange(7))
    loss, _ = objective(hidden, teacher, SenseTargets.empty(D), Scales(1.0, 1.0))
    buffer = loss.grad_fn.grads.weight.data_ptr()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.data_ptr() == buffer
