"""The values of the losses below the head in one micro-batch, with their gradients.

Both are formed together, some positions at a time, as the objective does at the head: senses then
exist in float32 for one chunk only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dskd_ds.losses.gram import same_token_gram
from dskd_ds.losses.sense import sense_loss
from dskd_ds.losses.senses_at_layer import TermSenses, is_peaked, sense_contrast, sense_posterior
from dskd_ds.losses.states import DISTANCES
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.spec.loss import LossSpec
from dskd_ds.student.terms.layers import LayerTerm, compared_layers_of, compares_states

ValuesOf = Callable[[Tensor, slice], Tensor]
"""States [C, D] of the student, and which of the N positions they are -> values [C]."""


def read_states(
    terms: Sequence[LayerTerm], captured: Mapping[int, Tensor], positions: Tensor
) -> list[Tensor]:
    """Return the states [N, D] that each term reads, a tensor of its own per term.

    captured: the student's states [B, T, D] by layer. positions: [N] through the flattened B * T.
    """
    by_layer = {layer: state.flatten(0, 1) for layer, state in captured.items()}
    return [by_layer[term.spec.student_layer].index_select(0, positions) for term in terms]


@dataclass(frozen=True)
class TermBatch:
    """What the terms learn from in one micro-batch."""

    input_ids: Tensor
    """[B, T]"""
    teacher: TeacherTargets
    """Its `layers` are the states [layers, N, D] of `compared_layers_of(terms)` at its positions;
    its `terms` are what each term learns from a dictionary."""
    loss: LossSpec


def term_sums(terms: Sequence[LayerTerm], read: Sequence[Tensor], batch: TermBatch) -> Tensor:
    """Return each term's sum over the supervised positions [terms], with its gradient.

    read: the states [N, D] of each term.
    """
    rows = {layer: row for row, layer in enumerate(compared_layers_of(terms))}
    learned = batch.teacher.terms or (None,) * len(terms)
    sums = []
    for term, states, senses in zip(terms, read, learned, strict=True):
        if term.spec.kind == "sense":
            assert senses is not None
            sums.append(_sense_sum(states, senses, batch))
            continue
        target = None
        if compares_states(term.spec):
            assert batch.teacher.layers is not None
            target = batch.teacher.layers[rows[term.teacher_layer]]
        values_of = _values_of(term, target, senses, batch)
        sums.append(_sum(states, values_of, _chunks(term, batch), batch.teacher.weights))
    return torch.stack(sums)


def peaked_counts(terms: Sequence[LayerTerm], batch: TermBatch) -> Tensor:
    """Return at how many positions the teacher's posterior is peaked, for each `posterior` term.

    As in the loss, a position counts with its weight.
    """
    learned = batch.teacher.terms or (None,) * len(terms)
    counts = []
    for term, senses in zip(terms, learned, strict=True):
        if term.spec.kind == "posterior":
            assert senses is not None
            assert senses.candidates is not None
            peaked = is_peaked(senses.candidates, term.spec.temperature).float()
            weights = batch.teacher.weights
            counts.append((peaked if weights is None else peaked * weights).sum())
    return torch.stack(counts) if counts else torch.zeros(0, device=batch.input_ids.device)


def _values_of(
    term: LayerTerm, target: Tensor | None, senses: TermSenses | None, batch: TermBatch
) -> ValuesOf:
    """Return the loss of a term as a function of a chunk of states.

    target: [N, D], the teacher's states. senses: what the term learns from a dictionary.
    """
    kind, temperature = term.spec.kind, term.spec.temperature
    if kind == "mse" or kind == "cosine":
        distance = DISTANCES[kind]
        wanted = senses.smoothed if senses is not None else target
        assert wanted is not None
        return lambda states, rows: distance(states, wanted[rows])
    if kind == "gram":
        assert target is not None
        tokens = _tokens(term, batch)
        return lambda states, rows: same_token_gram(states, target[rows], tokens[rows])
    assert senses is not None
    candidates = senses.candidates
    assert candidates is not None
    loss = sense_posterior if kind == "posterior" else sense_contrast
    return lambda states, rows: loss(states, candidates[rows], temperature)


def _tokens(term: LayerTerm, batch: TermBatch) -> Tensor:
    """Return the token [N] that the state of each supervised position belongs to."""
    if term.spec.attribution == "predicts":
        return batch.teacher.targets
    return batch.input_ids.flatten()[batch.teacher.positions]


def _chunks(term: LayerTerm, batch: TermBatch) -> list[slice]:
    """Return the positions that are computed together: those of a block for `gram`."""
    positions = batch.teacher.positions
    if term.spec.kind == "gram":
        num_rows, num_columns = batch.input_ids.shape
        lengths = torch.bincount(positions // num_columns, minlength=num_rows).tolist()
    else:
        size = batch.loss.chunk_positions
        lengths = [size] * (-(-len(positions) // size))
    chunks, start = [], 0
    for length in lengths:
        chunks.append(slice(start, start + length))
        start += length
    return chunks


def _sum(
    states: Tensor, values_of: ValuesOf, chunks: Sequence[slice], weights: Tensor | None
) -> Tensor:
    """Return the sum of a loss over N positions, with its gradient by states [N, D].

    weights: [N], factor of each position; None: 1.
    """
    total = torch.zeros((), device=states.device)
    grad = torch.zeros_like(states, dtype=_gradient_dtype(states))
    for rows in chunks:
        if rows.start == rows.stop:
            continue  # a block without supervised positions
        with torch.enable_grad():
            chunk = states[rows].detach().to(grad.dtype).requires_grad_()
            values = values_of(chunk, rows)
            if weights is not None:
                values = values * weights[rows]
            value = values.sum()
        (grad[rows],) = torch.autograd.grad(value, chunk)
        total += value.detach()
    return _with_gradient(states, total, grad)


def _sense_sum(states: Tensor, learned: TermSenses, batch: TermBatch) -> Tensor:
    """Return the sum of the paper's term at its sense positions, with its gradient."""
    targets = learned.senses
    assert targets is not None
    total = torch.zeros((), device=states.device)
    grad = torch.zeros_like(states, dtype=_gradient_dtype(states))
    for start in range(0, len(targets.positions), batch.loss.chunk_positions):
        chunk = targets[start : start + batch.loss.chunk_positions]
        if batch.teacher.weights is not None:
            weights = chunk.weights * batch.teacher.weights[chunk.positions]
            chunk = replace(chunk, weights=weights)
        hidden = states.detach().index_select(0, chunk.positions).float()
        loss = sense_loss(hidden, chunk, batch.loss, learned.margin)
        grad.index_add_(0, chunk.positions, loss.grad.to(grad.dtype))
        total += loss.loss
    return _with_gradient(states, total, grad)


def _gradient_dtype(states: Tensor) -> torch.dtype:
    """Return the number format in which a gradient by these states exists until it is scaled.

    The loss scale of float16 comes in the backward pass only, and can be larger than float16 holds;
    a gradient that is rounded to float16 before it may be zero. bfloat16 has the range of float32.
    """
    return torch.float32 if states.dtype == torch.float16 else states.dtype


def _with_gradient(states: Tensor, value: Tensor, grad: Tensor) -> Tensor:
    """Return `value` with this gradient by `states`."""
    formed: Any = _Formed.apply
    result: Tensor = formed(states, value, grad)
    return result


class _Formed(torch.autograd.Function):
    """A value whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        ctx.states_dtype = states.dtype
        ctx.save_for_backward(grad)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> Any:
        (grad,) = ctx.saved_tensors
        scaled = grad * incoming[0].to(grad.dtype)
        return scaled.to(ctx.states_dtype), None, None
