"""What students and teachers say to each other. Headers are validated by pydantic, arrays travel as raw buffers.

    teacher -> student   Hello, Credit, Reply, Failure, Ping, Bye
    student -> teacher   Welcome, Request, Ping, Bye

A request holds everything its reply depends on, so any identical teacher answers it bit for bit the same.
Arrays by name (N logit positions, P hidden positions, D hidden size, B blocks of T tokens):

    Request  input_ids [B, T] int32; position_ids [B, T] int32; logit_positions [N] int32; hidden_positions [P] int32
             (positions count through the flattened B*T)
    Reply    topk_ids [N, k] int32; topk_logits [N, k] float16, minus the row's maximum;
             tail [N, temperatures] float32, log-sum-exp of all other logits / tau, minus maximum / tau;
             hidden [P, D] uint16 (the bits of bfloat16)
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

PROTOCOL = 1
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

    num_requests: Annotated[int, Field(gt=0, le=1024)]


class Request(Message):
    """One forward pass of a fixed shape, and which signals are wanted from it."""

    request_id: Count
    top_k: Count
    temperatures: Annotated[tuple[float, ...], Field(max_length=8)]


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


KINDS: dict[int, type[Message]] = {
    1: Hello, 2: Welcome, 3: Credit, 4: Request, 5: Reply, 6: Failure, 7: Ping, 8: Bye,
}

ARRAYS: dict[type[Message], dict[str, tuple[str, int]]] = {
    Request: {"input_ids": ("int32", 2), "position_ids": ("int32", 2), "logit_positions": ("int32", 1),
              "hidden_positions": ("int32", 1)},
    Reply: {"topk_ids": ("int32", 2), "topk_logits": ("float16", 2), "tail": ("float32", 2), "hidden": ("uint16", 2)},
}
"""Which arrays a kind carries: name -> (dtype, number of dimensions)."""
