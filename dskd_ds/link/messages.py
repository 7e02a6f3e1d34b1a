"""What students and teachers say to each other. Headers are validated by pydantic, arrays travel as raw buffers.

    teacher -> student   Hello, Credit, Reply, Failure, Ping, Bye
    student -> teacher   Welcome, Request, Ping, Bye, WhoAreYou

A request holds everything its reply depends on, so any identical teacher answers it bit for bit the same.
Arrays by name. B blocks of T tokens, V vocabulary, D hidden size; K, S and P positions with top k, with draws, with hidden states.
Positions count through the flattened B * T and ascend. Token ids travel in the fewest bytes that hold V (link/packing.py).

    Request  input_ids [B, T] int32; position_ids [B, T] int32; top_k_positions [K], draw_positions [S], hidden_positions [P] int32;
             if the teacher is to choose senses (else 0 rows): targets [B, T] int32, -100 where there is none, and
             sample_keys [B, 2] int64, epoch and block, from which both sides draw the same Q sense positions and related words
    Reply    top_k_ids [K, k, id bytes] uint8; top_k_logits [K, k] float16, minus the row's maximum;
             tail [K, temperatures] float32, log-sum-exp of all other logits / tau, minus maximum / tau;
             draw_lengths [S] uint16, tokens drawn at each position; draw_ids [sum of lengths, id bytes] uint8, ascending in each row;
             draw_counts [sum of lengths, count bytes] uint8, how many draws fell on each;
             draw_log_probs [S] float32, mean over the draws of the teacher's log-probability of what was drawn, at draw_temperature;
             hidden [P, D * number bytes] uint8 and hidden_scales [P, blocks] uint16 (link/hidden.py);
             sense_weights [Q] float32; sense_neighbours [Q] uint8, 1 where the index gave senses; for S+ (pull) and S- (push)
             pull_lengths [Q, length bytes] uint8 and pull_rows [sum of lengths, row bytes] uint8, rows of the dictionary (sense/chosen.py)
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from dskd_ds.spec.processes import MAX_CREDITS, HiddenFormat

PROTOCOL = 4
"""Version of everything in this module; peers of another version are refused by name."""

Array = NDArray[np.generic]
Count = Annotated[int, Field(ge=0)]


class Message(BaseModel):
    """Base of all headers."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Hello(Message):
    """A teacher introduces itself."""

    teacher: str = Field(max_length=200)
    """Name for messages and metrics: host, process id, replica."""
    fingerprint: str = Field(max_length=200)
    """What the replies depend on: model, dtype. Teachers of one run must agree."""
    vocab_size: Annotated[int, Field(gt=0)]
    hidden_size: Annotated[int, Field(gt=0)]


class Welcome(Message):
    """The student's answer to a hello; only then do credits count."""

    student: str = Field(max_length=200)


class Credit(Message):
    """The teacher can take this many more requests."""

    num_requests: Annotated[int, Field(gt=0, le=MAX_CREDITS)]


class SensesWanted(Message):
    """Senses that the teacher is to choose with its own copy of the dictionary, and in what form."""

    key: str = Field(max_length=200)
    """Digests of the student's dictionary and of the settings that decide the choice; a teacher that has others refuses."""
    num_rows: Annotated[int, Field(gt=0)]
    """Of the dictionary."""
    most: Annotated[int, Field(gt=0)]
    """Senses in S+ or in S- of one position."""


class Wanted(Message):
    """Which signals are wanted of a forward pass, and in what form."""

    top_k: Annotated[int, Field(gt=0)]
    temperatures: Annotated[tuple[float, ...], Field(max_length=8)]
    """Of the tails."""
    num_draws: Annotated[int, Field(gt=0, le=65_535)]
    draw_temperature: Annotated[float, Field(gt=0)]
    draw_seed: Count
    hidden_format: HiddenFormat
    senses: SensesWanted | None = None
    """None: the student chooses them itself, or has no use for them."""


class Request(Message):
    """One forward pass of a fixed shape, and what is wanted from it."""

    request_id: Count
    wanted: Wanted


class Reply(Message):
    """The signals of one request."""

    request_id: Count
    forward_seconds: Annotated[float, Field(ge=0)]


class Failure(Message):
    """The teacher could not do a request; the text says why. The student must not send it again."""

    request_id: Count
    text: str = Field(max_length=4000)


class Ping(Message):
    """A sign of life."""


class Bye(Message):
    """The sender leaves in good order; nothing more comes from it."""


class WhoAreYou(Message):
    """The student hears a teacher that it does not know, or has given up meanwhile: it is to say hello again, and forget its requests."""


KINDS: dict[int, type[Message]] = {
    1: Hello,
    2: Welcome,
    3: Credit,
    4: Request,
    5: Reply,
    6: Failure,
    7: Ping,
    8: Bye,
    9: WhoAreYou,
}

ARRAYS: dict[type[Message], dict[str, tuple[str, int]]] = {
    Request: {
        "input_ids": ("int32", 2),
        "position_ids": ("int32", 2),
        "top_k_positions": ("int32", 1),
        "draw_positions": ("int32", 1),
        "hidden_positions": ("int32", 1),
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
        "sense_weights": ("float32", 1),
        "sense_neighbours": ("uint8", 1),
        "pull_lengths": ("uint8", 2),
        "pull_rows": ("uint8", 2),
        "push_lengths": ("uint8", 2),
        "push_rows": ("uint8", 2),
    },
}
"""Which arrays a kind carries: name -> (dtype, number of dimensions)."""
