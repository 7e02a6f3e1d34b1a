"""Runs the quickstart's models on held-out text, for benches whose figures need real states.

Needs the quickstart's teacher, student, texts and dictionary (`make quickstart` provides them).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dskd_ds.data.batches import Batch, Sample, make_batch
from dskd_ds.data.blocks import heldout_blocks
from dskd_ds.losses.distributions import TopK
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.signals.parts.chunks import concatenate
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.depth import student_init

QUICKSTART = "ds_configs/runs/quickstart.toml"
PLAIN_TRAINING = ("repair.steps=0", "student.train_embeddings=true")
"""Overrides of the quickstart's spec: all weights are trained, from the first step."""
NUM_POSITIONS = 2048
"""Positions that `teacher_on_text` reads."""
ROWS = 128
"""Positions whose logits are computed at a time."""


@dataclass(frozen=True)
class TeacherOnText:
    """The quickstart's teacher in float32, and its states on held-out text."""

    spec: RunSpec
    teacher: FrozenModel
    batch: Batch
    states: Tensor
    """[B * T, D] float32"""

    @property
    def supervised(self) -> Tensor:
        """[N, D] states at positions with a target."""
        return self.states[self.batch.supervised]

    def top_k(self, states: Tensor) -> TopK:
        """Return the teacher's top k at states [P, D]; k is that of the spec."""
        chunks = [
            take_top_k(self.teacher.logits(rows), self.spec.loss.top_k, (1.0,))
            for rows in states.split(ROWS)
        ]
        return concatenate(chunks)


@lru_cache(maxsize=1)
def teacher_on_text() -> TeacherOnText:
    """Run the teacher on blocks spread over the held-out text, once for all benches.

    Raises InputError if the quickstart's input does not exist.
    """
    spec = load_spec(QUICKSTART)
    named = NamedModel(spec.teacher.model, dtype="float32", compiled=spec.teacher.compile)
    teacher = load_frozen(named, torch.device("cpu"))
    blocks = heldout_blocks(spec.data, named.tokenizer)
    num_blocks = NUM_POSITIONS // spec.data.block_tokens
    stride = len(blocks) // num_blocks
    batch = make_batch(
        [blocks[index * stride] for index in range(num_blocks)],
        [Sample(0, index) for index in range(num_blocks)],
    )
    # One block at a time, which bounds the memory of the forward pass.
    states = [
        teacher.hidden_states(ids[None], positions[None])[0].float()
        for ids, positions in zip(batch.input_ids, batch.position_ids, strict=True)
    ]
    return TeacherOnText(spec, teacher, batch, torch.cat(states))


@dataclass(frozen=True)
class BothOnText:
    """The quickstart's teacher and untrained student at the same N positions of held-out text."""

    teacher: Tensor
    """[N, D] states of the teacher after the final norm."""
    student: Tensor
    """[N, D] states of the student after the final norm."""
    teacher_head: Tensor
    """[V, D]"""
    student_head: Tensor
    """[V, D]"""
    targets: Tensor
    """[N] the next tokens."""


@torch.no_grad()
def both_on_text(num_positions: int) -> BothOnText:
    """Run both models in float32 on the first supervised positions of the held-out text.

    Raises InputError if the quickstart's input does not exist.
    """
    spec = load_spec(QUICKSTART)
    models = RunModels.of(spec)
    teacher, student = (
        load_frozen(NamedModel(path, dtype="float32"), torch.device("cpu"))
        for path in (spec.teacher.model, student_init(spec, models).path)
    )
    blocks = heldout_blocks(spec.data, models.teacher.tokenizer)
    # A block of T tokens has at most T - 1 targets, and one less for each document that starts
    # inside it; one more block makes up for those.
    num_blocks = -(-num_positions // (spec.data.block_tokens - 1)) + 1
    batch = make_batch(
        [blocks[index] for index in range(num_blocks)],
        [Sample(0, index) for index in range(num_blocks)],
    )
    positions = batch.supervised[:num_positions]
    teacher_states, student_states = (
        model.hidden_states(batch.input_ids, batch.position_ids).flatten(0, 1)[positions].float()
        for model in (teacher, student)
    )
    # Clones, because tensors of inference mode cannot take part in autograd.
    return BothOnText(
        teacher=teacher_states.clone(),
        student=student_states.clone(),
        teacher_head=teacher.head.float().clone(),
        student_head=student.head.float().clone(),
        targets=batch.targets.flatten()[positions].clone(),
    )
