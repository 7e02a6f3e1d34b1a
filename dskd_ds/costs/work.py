"""What the ranks of a run do in one step, as sizes and counts; `costs/time.py` computes seconds.

Loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dskd_ds.costs.shapes import ModelShape
from dskd_ds.costs.terms import num_candidate_sets, student_candidate_sets
from dskd_ds.spec import RunSpec

Recompute = Literal["none", "selective", "full"]
"""Activation checkpointing. `full`: each layer's forward pass is run again in the backward pass.
`selective`: every second matrix product is."""

ADAM_BYTES = {"mixed": 30, "bf16": 14}
"""Bytes that AdamW reads and writes per parameter: weight, two moments and gradient."""


@dataclass(frozen=True)
class StepWork:
    """What the students do in one optimiser step."""

    shape: ModelShape
    num_ranks: int
    row_tokens: int
    """Tokens of a block, over which attention reaches."""
    rows_per_micro_batch: int
    """Of one rank."""
    num_micro_batches: int
    """Forward passes of each rank per step."""
    trained_layers: int
    """The last layers that are trained; the backward pass ends below them."""
    trains_outer: bool = True
    """Whether embedding and head are trained."""
    recompute: Recompute = "none"
    compiled: bool = False
    zero_stage: int = 3
    parameter_bytes: int = 2
    """Bytes per number of the forward and backward pass."""
    gradient_bytes: int = 2
    """Bytes per number in the reduction of gradients."""
    adam_bytes: int = ADAM_BYTES["mixed"]
    rebuilds_width: int = 0
    """Hidden size of the teacher if the student rebuilds its logits from states, else 0."""
    sense_share: float = 0.0
    """Share of positions with a sense term, 0..1."""
    retrieves_senses: bool = False
    """Whether the students' nodes choose the senses of the sense term."""
    candidate_sets: int = 0
    """Choices of senses at every position for losses below the head, on the students' nodes."""
    threads_per_rank: int = 0
    """Cores of each rank that choose senses; 0: the rank's share of the node."""
    saved_bytes: float = 0.0
    """Bytes of a checkpoint."""

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of one rank's micro-batch."""
        return self.row_tokens * self.rows_per_micro_batch

    @property
    def step_tokens(self) -> int:
        """Tokens of all ranks in a step."""
        return self.micro_batch_tokens * self.num_micro_batches * self.num_ranks

    @property
    def trained_parameters(self) -> int:
        """Number of trained weights."""
        layers = self.trained_layers * self.shape.parameters_per_layer
        outer = self.shape.embedding_parameters + self.shape.head_parameters
        return layers + (outer + self.shape.num_outer_parameters if self.trains_outer else 0)

    def on(self, num_ranks: int) -> StepWork:
        """Return the same work per rank for another number of ranks."""
        return replace(self, num_ranks=num_ranks)


@dataclass(frozen=True)
class TeacherWork:
    """What one teacher does to answer one request, and what travels."""

    shape: ModelShape
    ranks_per_teacher: int
    row_tokens: int
    rows_per_request: int
    reply_bytes_per_token: float
    """Bytes of request and reply per token (`plan/traffic.py`)."""
    head_share: float = 1.0
    """Share of positions whose logits the teacher computes, 0..1."""
    sense_share: float = 0.0
    """Choices of senses per position: the share of sense positions, and 1 for each set of
    candidates for losses below the head."""
    threads_per_rank: int = 0
    """Cores of each rank that choose senses; 0: the rank's share of the node."""
    compiled: bool = False
    parameter_bytes: int = 2

    @property
    def request_tokens(self) -> int:
        """Tokens of a request."""
        return self.row_tokens * self.rows_per_request


def step_work(
    spec: RunSpec,
    student: ModelShape,
    *,
    teacher_width: int,
    zero_stage: int,
    sense_share: float = 0.0,
) -> StepWork:
    """Return the students' work of a run.

    student: its shape, with the layers that it keeps. teacher_width: the teacher's hidden size.
    zero_stage: of the DeepSpeed file. sense_share: share of positions with the sense term.
    """
    train = spec.student.train_last_layers
    trained_layers = min(train or student.num_layers, student.num_layers)
    bytes_per_number = 4 if spec.student.dtype == "float32" else 2
    work = StepWork(
        shape=student,
        num_ranks=spec.topology.num_students,
        row_tokens=spec.data.block_tokens,
        rows_per_micro_batch=spec.train.micro_batch_blocks,
        num_micro_batches=spec.num_accumulation_steps,
        trained_layers=trained_layers,
        trains_outer=spec.student.trains_outer,
        recompute="full" if spec.student.activation_checkpointing else "none",
        compiled=spec.student.compile,
        zero_stage=zero_stage,
        parameter_bytes=bytes_per_number,
        gradient_bytes=bytes_per_number,
        adam_bytes=ADAM_BYTES[spec.student.precision],
        rebuilds_width=teacher_width if spec.loss.signal == "exact" else 0,
        sense_share=sense_share,
        retrieves_senses=spec.uses_senses and spec.senses.retrieve_on == "student",
        candidate_sets=student_candidate_sets(spec),
        threads_per_rank=spec.topology.threads_per_rank,
    )
    saved = 6 if spec.student.precision == "bf16" else 12
    return replace(work, saved_bytes=float(saved * work.trained_parameters))


def teacher_work(
    spec: RunSpec,
    teacher: ModelShape,
    *,
    bytes_per_token: float,
    sense_share: float = 0.0,
    ranks_per_teacher: int = 1,
) -> TeacherWork:
    """Return a teacher's work per request.

    bytes_per_token: of request and reply. sense_share: share of positions with the sense term.
    """
    # States alone need no logits, but choosing senses needs the top k at the sense positions.
    needs_all_logits = spec.loss.signal in ("topk", "sampled")
    chooses = spec.uses_senses and spec.senses.retrieve_on == "teacher"
    return TeacherWork(
        shape=teacher,
        ranks_per_teacher=ranks_per_teacher,
        row_tokens=spec.data.block_tokens,
        rows_per_request=spec.train.micro_batch_blocks,
        reply_bytes_per_token=bytes_per_token,
        head_share=1.0 if needs_all_logits else sense_share,
        sense_share=(sense_share if chooses else 0.0) + num_candidate_sets(spec),
        threads_per_rank=spec.topology.threads_per_rank,
        compiled=spec.teacher.compile,
        parameter_bytes=4 if spec.teacher.dtype == "float32" else 2,
    )
