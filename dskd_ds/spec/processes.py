"""[topology], [link]: which ranks do what, and how they talk."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import NonNegativeInt, Part, PositiveFloat, PositiveInt

HiddenFormat = Literal["bfloat16", "float8"]
"""Number format of hidden states on the wire."""
MAX_CREDITS = 1024
"""The most requests that a student may have in flight with a teacher."""


class TopologySpec(Part):
    """How the ranks of a launch are dealt to roles. Students come first, teachers take the last ranks."""

    num_students: PositiveInt
    """Ranks that train (one ZeRO-3 world)."""
    num_teachers: NonNegativeInt = 1
    """Teacher replicas in the same launch, one rank each; 0 if teachers are a job step of their own."""
    threads_per_rank: NonNegativeInt = 1
    """CPU threads of each rank; 0 leaves it to OMP_NUM_THREADS."""


class LinkSpec(Part):
    """The messages between students and teachers."""

    prefetch_depth: PositiveInt = 2
    """Steps whose requests are sent ahead of the step in work. Replies of at most this many steps and one more lie in a rank's memory
    (`dskd train --dry-run` says how many bytes that is)."""
    credits: Annotated[int, Field(gt=0, le=MAX_CREDITS)] = 2
    """Requests a teacher lets each student have in flight with it: so many replies for each student are the most that it holds."""
    hidden_format: HiddenFormat = "bfloat16"
    """Hidden states on the wire: `float8` (e4m3, a scale for each 64 numbers) halves them. For SmolLM2 a teacher rebuilt from these states
    has a KL of 0.003 nats to itself, from bfloat16 states 0.00003."""
    address: str = "127.0.0.1"
    """Address that students bind and teachers connect to; `hostname` on a cluster: each student's own host name (with `encrypt` it listens
    on every interface, without on the one that the name means to itself)."""
    encrypt: bool = True
    """CURVE encryption and authentication, keys in the run directory (0600)."""
    heartbeat_seconds: PositiveFloat = 1.0
    """How often each side says that it lives."""
    dead_after_seconds: PositiveFloat = 10.0
    """Silence after which a peer counts as lost; its requests go to another teacher."""
    teacher_wait_seconds: PositiveFloat = 120.0
    """How long a student waits for a first teacher, or for another when all have left, before it saves and ends (exit 4)."""
    max_message_bytes: PositiveInt = 1 << 30
    """A longer message is refused before it is read."""
