"""The messages between students and teachers: headers checked by pydantic, arrays as raw buffers.

    teacher -> student   Hello, Reply, Failure, TeacherPing, Bye
    student -> teacher   Welcome, Request, Ping, Bye, WhoAreYou, Rejected

Any message may be lost, repeated, delayed or overtaken by another one: what a message says holds by
itself and does not add to an earlier one. A request holds everything that its reply depends on, so
identical teachers send identical replies.

Sizes: B blocks of T tokens, vocabulary V, hidden size D. K positions get the top k tokens, S get
draws, P get hidden states, Q get senses, M get states of several layers; N have a target. Positions
count through the flattened B * T and ascend.
Token ids take the fewest bytes that hold V (link/packing.py), written "id bytes" here; "count
bytes", "length bytes" and "row bytes" are chosen in the same way.

Request
    input_ids, position_ids [B, T] int32
    top_k_positions [K], draw_positions [S], hidden_positions [P], layer_positions [M] int32
    targets [B, T] int32           -100 where there is none
    sample_keys [B, 2] int64       epoch and block; both sides draw the same Q sense positions and
                                   the same related words from them
    (targets and sample_keys have 0 rows unless the teacher chooses senses or candidates)

Reply
    top_k_ids [K, k, id bytes] uint8
    top_k_logits [K, k] float16    minus the row's maximum
    tail [K, temperatures] float32 log-sum-exp of all other logits / tau, minus maximum / tau
    draw_lengths [S] uint16        number of distinct tokens drawn at each position
    draw_ids [sum of lengths, id bytes] uint8       ascending in each row
    draw_counts [sum of lengths, count bytes] uint8 how often each of these tokens was drawn
    draw_log_probs [S] float32     mean of the drawn tokens' log-probability under the teacher, at
                                   draw_temperature
    hidden [P, D * number bytes] uint8 and hidden_scales [P, scale blocks] uint16
                                   (signals/parts/states.py)
    layer_states and layer_scales  the same for [layers * M] rows, layer by layer
                                   (signals/parts/layers.py)
    sense_weights [Q] float32
    sense_neighbours [Q] uint8     1 if the index gave senses
    pull_lengths [Q, length bytes] uint8 and pull_rows [sum of lengths, row bytes] uint8
                                   rows of the dictionary in S+ (signals/parts/chosen.py)
    push_lengths and push_rows     the same for S-
    candidate_lengths [candidate sets * N, length bytes] uint8, set by set
    candidate_rows [sum of lengths, row bytes] uint8       rows of the set's dictionary
    candidate_distances [sum of lengths] float32           squared distances from the teacher's
                                   state (signals/parts/measured.py)
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from dskd_ds.spec.processes import MAX_CREDITS, HiddenFormat

PROTOCOL = 10
"""Version of everything in this module; a peer with another version is refused."""

MAX_FAILURE_CHARACTERS = 4000
MAX_LAYERS = 512
"""Layers whose states, and sets of candidates, one request may name."""
Array = NDArray[np.generic]
Count = Annotated[int, Field(ge=0)]


class Message(BaseModel):
    """Base class of all headers."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Hello(Message):
    """A teacher introduces itself."""

    teacher: str = Field(max_length=200)
    """Name in error messages and metrics: host, process id, replica."""
    fingerprint: str = Field(max_length=200)
    """Everything the replies depend on: model, dtype. All teachers of a run must have the same."""
    vocab_size: Annotated[int, Field(gt=0)]
    hidden_size: Annotated[int, Field(gt=0)]
    session: Count = 0
    """Number of the connection among those of this teacher to any student; it rises. A hello whose
    number does not is a copy of an earlier one."""
    credit_requests: Annotated[int, Field(gt=0, le=MAX_CREDITS)] = 1
    """Requests that the student may have in flight with this teacher at any time."""
    credit_bytes: Count = 0
    """Bytes of requests and their replies that the student may have in flight with this teacher; 0
    for any. A request that needs more is sent when nothing else is in flight."""


class Welcome(Message):
    """The student's answer to a hello; requests follow it."""

    student: str = Field(max_length=200)
    num_students: Annotated[int, Field(gt=0)]
    """Number of students of the run, each of which the teacher serves."""


class SensesWanted(Message):
    """Asks the teacher to choose senses with its copy of the dictionary, and says in what form."""

    key: str = Field(max_length=200)
    """Digests of the student's dictionary and of the settings that decide the choice.

    A teacher with another dictionary or other settings refuses the request.
    """
    num_rows: Annotated[int, Field(gt=0)]
    """Number of rows of the dictionary."""
    most: Annotated[int, Field(gt=0)]
    """The most senses in S+, or in S-, of one position."""


class CandidatesWanted(Message):
    """Asks for senses near the teacher's state after one layer, at each position with a target."""

    layer: Annotated[int, Field(gt=0)]
    """Number of the layer, counted by its output as `Wanted.layers` is."""
    key: str = Field(max_length=200)
    """Digests of the layer's dictionary and of the settings that decide the candidates.

    A teacher with another dictionary or other settings refuses the request.
    """
    num_rows: Annotated[int, Field(gt=0)]
    """Number of rows of the dictionary."""
    most: Annotated[int, Field(gt=0)]
    """The most candidates of one position."""


class Wanted(Message):
    """Which signals a forward pass is to return, and in what form."""

    top_k: Annotated[int, Field(gt=0)]
    temperatures: Annotated[tuple[float, ...], Field(max_length=8)]
    """Temperatures of the tails."""
    num_draws: Annotated[int, Field(gt=0, le=65_535)]
    draw_temperature: Annotated[float, Field(gt=0)]
    draw_seed: Count
    hidden_format: HiddenFormat
    by_block: bool = False
    """Whether each row is a forward pass of its own, without the padding behind it. A position's
    reply is then the same in any request that contains its row."""
    layers: Annotated[tuple[Count, ...], Field(max_length=MAX_LAYERS)] = ()
    """Layers whose states are wanted at the layer positions, ascending. 0 is the embeddings, k the
    output of the k-th layer."""
    senses: SensesWanted | None = None
    """None if the student chooses senses itself, or trains without senses."""
    candidates: Annotated[tuple[CandidatesWanted, ...], Field(max_length=MAX_LAYERS)] = ()
    """Sets of candidates for losses below the head. Empty if the student chooses them itself, or
    has no such losses."""


class Request(Message):
    """One forward pass, and the signals that it is to return."""

    request_id: Count
    wanted: Wanted


class Reply(Message):
    """The signals of one request."""

    request_id: Count
    forward_seconds: Annotated[float, Field(ge=0)]


class Failure(Message):
    """The teacher could not answer a request. The student may give it to another teacher."""

    request_id: Count
    text: str = Field(max_length=MAX_FAILURE_CHARACTERS)
    """The reason."""
    is_leaving: bool = False
    """Whether the teacher ends because it cannot go on: its GPU or one of its ranks failed. The
    request is then not refused, and waits if there is no other teacher."""


class Ping(Message):
    """A heartbeat of a student."""


class TeacherPing(Message):
    """A heartbeat of a teacher."""

    num_done: Count
    """Requests that the teacher has finished, of all students. A teacher that holds requests while
    this number stands still hangs."""
    held: Annotated[tuple[Count, ...], Field(max_length=MAX_CREDITS)]
    """Requests of the student that receives this, which came and are not answered yet. One that is
    missing here for long was lost on its way, or its reply was."""


class Bye(Message):
    """The sender ends; it sends nothing after this."""

    is_coming_back: bool = False
    """Whether a student expects to be started again soon, to go on with the run. False if the run
    is done, or cannot go on. A teacher says false."""


class WhoAreYou(Message):
    """The student received a message from an unknown teacher, or from one that it counts as lost.

    The teacher must drop its requests and send a new hello.
    """


class Rejected(Message):
    """The student takes no replies from this teacher, and will not change its mind."""

    text: str = Field(max_length=MAX_FAILURE_CHARACTERS)
    """The reason."""


KINDS: dict[int, type[Message]] = {
    1: Hello,
    2: Welcome,
    3: Request,
    4: Reply,
    5: Failure,
    6: Ping,
    7: TeacherPing,
    8: Bye,
    9: WhoAreYou,
    10: Rejected,
}

ARRAYS: dict[type[Message], dict[str, tuple[str, int]]] = {
    Request: {
        "input_ids": ("int32", 2),
        "position_ids": ("int32", 2),
        "top_k_positions": ("int32", 1),
        "draw_positions": ("int32", 1),
        "hidden_positions": ("int32", 1),
        "layer_positions": ("int32", 1),
        "targets": ("int32", 2),
        "sample_keys": ("int64", 2),
    },
    Reply: {
        "top_k_ids": ("uint8", 3),
        "top_k_logits": ("float16", 2),
        "tail": ("float32", 2),
        "draw_lengths": ("uint16", 1),
        "draw_ids": ("uint8", 2),
        "draw_counts": ("uint8", 2),
        "draw_log_probs": ("float32", 1),
        "hidden": ("uint8", 2),
        "hidden_scales": ("uint16", 2),
        "layer_states": ("uint8", 2),
        "layer_scales": ("uint16", 2),
        "sense_weights": ("float32", 1),
        "sense_neighbours": ("uint8", 1),
        "pull_lengths": ("uint8", 2),
        "pull_rows": ("uint8", 2),
        "push_lengths": ("uint8", 2),
        "push_rows": ("uint8", 2),
        "candidate_lengths": ("uint8", 2),
        "candidate_rows": ("uint8", 2),
        "candidate_distances": ("float32", 1),
    },
}
"""The arrays of each message class: name -> (dtype, number of dimensions)."""
