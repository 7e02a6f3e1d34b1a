"""The end of a step: all ranks update the weights, or all skip the update.

DeepSpeed skips an update whose gradients are not finite: it looks at their norm over all ranks,
clears the gradients of all micro-batches, and leaves weights and moments alone. A bad loss uses
the same way out: all ranks learn each other's loss before the last backward pass, and if one is
bad, every rank multiplies its own by NaN. So nothing that was accumulated has to be undone, and no
rank leaves the others in a collective.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from torch import Tensor

from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.skips import StepFacts


def all_reduce_losses(own_loss: Tensor, rank: int, num_ranks: int) -> Tensor:
    """Return each rank's part of the step's loss [num_ranks], float64. A collective call.

    A sum over ranks would hide whose loss is not finite.
    """
    losses = own_loss.new_zeros(num_ranks)
    losses[rank] = own_loss
    deepspeed.comm.all_reduce(losses)
    return losses


def poison_if_bad(loss: Tensor, losses: Tensor, loss_limit: float) -> Tensor:
    """Return NaN instead of `loss` if the step's loss is not finite or exceeds `loss_limit`.

    losses: of all ranks. Nothing is copied to the CPU, so the GPU need not be waited for.
    """
    step_loss = losses.sum()
    is_good = step_loss.isfinite() & (step_loss <= loss_limit)
    return loss * torch.where(is_good, 1.0, math.nan).to(loss)


def update_or_skip(engine: Engine, losses: Tensor, loss_limit: float) -> StepFacts:
    """Update the weights, unless the gradients are not finite. A collective call.

    It is called after the last backward pass of a step. losses, loss_limit: as in `poison_if_bad`.
    """
    if not hasattr(engine.optimizer, "overflow"):
        is_applied = _update_without_zero(engine)
        return StepFacts(losses.tolist(), loss_limit, is_applied)
    scaler = _dynamic_scaler(engine.optimizer)
    before = dict(vars(scaler)) if scaler else {}
    engine.step()
    is_applied = engine.was_step_applied()
    can_lower_scale = bool(scaler) and before["cur_scale"] > before["min_scale"]
    facts = StepFacts(losses.tolist(), loss_limit, is_applied, can_lower_scale)
    if scaler and facts.cause in ("loss", "spike"):
        # DeepSpeed took the poisoned gradients for an overflow and lowered the loss scale.
        vars(scaler).update(before)
    return facts


def _update_without_zero(engine: Any) -> bool:
    """Update at ZeRO stage 0 in float32, where DeepSpeed does not look at the gradients.

    Returns whether the weights were updated. The norm is stored where `get_global_grad_norm` looks
    for it, because DeepSpeed clips by it here without storing it.
    """
    parameters = list(engine.module.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    engine._global_grad_norm = norm
    # The gradients were reduced in the backward pass, so the norm is the same on all ranks.
    if norm.isfinite():
        engine.step()
        return True
    with _without_update(engine.optimizer):
        engine.step()  # counts the step, and clears the gradients
    return False


@contextmanager
def _without_update(optimizer: Any) -> Iterator[None]:
    """Let `optimizer.step()` do nothing within the block."""
    optimizer.step = lambda: None  # hides the method of the class
    try:
        yield
    finally:
        del optimizer.step


def _dynamic_scaler(optimizer: Any) -> Any:
    """Return the object that finds float16's loss scale, or None in another format.

    DeepSpeed would end a run whose gradients overflow at the smallest scale. Such a step is one
    that is skipped, and the rollback decides about the run.
    """
    scaler = getattr(optimizer, "loss_scaler", None)
    if scaler is None or not scaler.dynamic:
        return None
    scaler.raise_error_at_min_scale = False
    return scaler
