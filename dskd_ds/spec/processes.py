"""[topology], [link]: which ranks are students and teachers, and how they exchange messages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import (
    MAY_CHANGE,
    MUST_STAY,
    OTHER_ROUNDING,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
)

HiddenFormat = Literal["bfloat16", "float8"]
"""Number format of hidden states on the wire."""
MAX_CREDITS = 1024
"""Upper limit of the requests that one student may have in flight with one teacher."""


class TopologySpec(Part):
    """How the ranks of a launch get their roles: students come first, teachers last."""

    num_students: Annotated[PositiveInt, OTHER_ROUNDING]
    """Number of ranks that train. Together they are one ZeRO world. A run may be resumed with
    another number."""
    num_teachers: Annotated[NonNegativeInt, MAY_CHANGE] = 1
    """Number of teachers in the same launch, of `ranks_per_teacher` ranks each, those of
    [[teachers]] included; 0 if teachers are a job step of their own."""
    ranks_per_teacher: Annotated[PositiveInt, OTHER_ROUNDING] = 1
    """Number of ranks that hold one teacher together, for a model that is too large for one GPU:
    each has a share of every layer and of the vocabulary (tensor parallelism). It must divide the
    teacher's heads, key-value heads, feed-forward size and vocabulary. All ranks of a teacher are
    on one node."""
    threads_per_rank: Annotated[NonNegativeInt, OTHER_ROUNDING] = 1
    """CPU threads of each rank; 0 keeps what OMP_NUM_THREADS says."""

    @property
    def num_ranks(self) -> int:
        """Number of ranks of a launch."""
        return self.num_students + self.num_teachers * self.ranks_per_teacher


class LinkSpec(Part):
    """The messages between students and teachers."""

    prefetch_depth: PositiveInt = 2
    """Number of steps whose requests are sent before the current step ends. A rank keeps the
    replies of at most one step more in memory (`dskd train --dry-run` prints how many bytes that
    is)."""
    credits: Annotated[int, Field(gt=0, le=MAX_CREDITS)] = 2
    """Requests that each student may have in flight with a teacher. A teacher holds at most this
    many replies per student."""
    credit_bytes: NonNegativeInt = 1 << 28
    """Bytes of requests and replies that each student may have in flight with a teacher; 0 for no
    limit. A request that needs more than this is sent when nothing else is in flight."""
    hidden_format: Annotated[HiddenFormat, MUST_STAY] = "bfloat16"
    """Number format of hidden states on the wire. `float8` (e4m3, one scale per 64 numbers) halves
    them. For SmolLM2 the logits rebuilt from float8 states have a KL of 0.003 nats to the
    teacher's, those from bfloat16 states 0.00003."""
    address: str = "127.0.0.1"
    """Address that students bind and teachers connect to. On a cluster use `hostname`: each
    student's own host name. With `encrypt` the student then listens on every interface; without
    it, only on the one that its host name resolves to."""
    encrypt: bool = True
    """Encrypt and authenticate messages with CURVE. The keys are in the run directory (mode
    0600)."""
    heartbeat_seconds: PositiveFloat = 1.0
    """Time between two heartbeats of a student or teacher."""
    dead_after_seconds: PositiveFloat = 10.0
    """Silence after which a peer counts as lost. Its requests go to another teacher. Heartbeats
    wait behind a reply, so replies should take less time than this to arrive; a teacher that is
    lost with requests is allowed twice the silence when it comes back."""
    deadline_seconds: PositiveFloat = 60.0
    """Shortest time after which a teacher that sends heartbeats but answers no request counts as
    hung. Its requests go to another teacher, and it is not asked again. Raise it if a first request
    takes longer, which also compiles the layers with [teacher] compile."""
    deadline_factor: PositiveFloat = 20.0
    """Median forward times after which such a teacher counts as hung, if that is longer than
    `deadline_seconds`."""
    teacher_wait_seconds: PositiveFloat = 120.0
    """How long a student waits for a first teacher, or for a new one after all have left. Then it
    saves a checkpoint and ends with exit code 4. Only time in which it has unanswered requests
    counts: not while all it needs is in a cache, or while a further teacher is not asked."""
    student_wait_seconds: PositiveFloat = 600.0
    """How long a teacher waits for a first student, or for students that fell silent. A teacher
    that was started on its own also waits so long after students that said that they come back.
    Then it ends with exit code 4."""
    max_message_bytes: PositiveInt = 1 << 30
    """Size limit of a message. A longer one is refused before it is read."""
