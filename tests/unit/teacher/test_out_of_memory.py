"""A request that is larger than the teacher's memory is refused with what to set, and only it."""

from __future__ import annotations

import gc
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.link import Work
from dskd_ds.link.messages import Array, Request, Wanted
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.runtime.devices import give_back_memory
from dskd_ds.senses.choose.on_teacher import NO_SENSES
from dskd_ds.teacher.answer import answer
from dskd_ds.teacher.out_of_memory import TeacherMemoryError
from dskd_ds.teacher.service import serve_requests
from tests.unit.conftest import D, T
from tests.unit.signals.known_request import WANTED, known_request

MB = 1 << 20
HOLE_BYTES = 8 * MB
"""Holes of the heap that are smaller serve none of the requests of these tests."""
NUM_TOKENS = 200_000
"""Vocabulary of a head whose logits at 256 positions take 205 MB in float32."""


@contextmanager
def at_most_more_bytes(num_bytes: int) -> Iterator[None]:
    """Let allocations of this process fail that need more than so much further memory.

    What earlier tests have freed is given back first. glibc reserves 64 to 128 MB of addresses for
    each new thread, which count too.
    """
    gc.collect()
    give_back_memory()
    holes = fill_holes()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        del holes


def fill_holes() -> list[torch.Tensor]:
    """Return memory that takes all large holes of the heap, which cannot be given back.

    A hole between two blocks that are in use would serve a large request without further memory.
    """
    blocks: list[torch.Tensor] = []
    before = mapped_bytes()
    while mapped_bytes() == before:
        blocks.append(torch.empty(HOLE_BYTES, dtype=torch.uint8))
    return blocks


def mapped_bytes() -> int:
    """Return the size of the addresses that this process has mapped."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    return num_pages * resource.getpagesize()


def large_request(num_tokens: int) -> dict[str, Array]:
    """Return a request of one block that wants a top k at every position."""
    none = np.zeros(0, np.int32)
    return {
        "input_ids": np.zeros((1, num_tokens), np.int32),
        "position_ids": np.arange(num_tokens, dtype=np.int32)[None],
        "top_k_positions": np.arange(num_tokens, dtype=np.int32),
        "draw_positions": none,
        "hidden_positions": none,
        "layer_positions": none,
        "targets": np.zeros((0, 0), np.int32),
        "sample_keys": np.zeros((0, 2), np.int64),
    }


def set_rows(teacher: FrozenModel, message: str) -> FrozenModel:
    """Do what the message of a refusal says."""
    found = re.search(r"set \[teacher\] head_chunk_rows = (\d+)", message)
    assert found, message
    return replace(teacher, head_chunk_rows=int(found[1]))


def test_following_the_refusals_makes_a_request_fit(teacher: FrozenModel) -> None:
    """The allocations that fail are real ones of the CPU's allocator."""
    teacher = replace(teacher, head=torch.randn(NUM_TOKENS, D), vocab_size=NUM_TOKENS)
    teacher = replace(teacher, head_chunk_rows=256)
    arrays = large_request(256)
    expected = answer(replace(teacher, head_chunk_rows=16), arrays, WANTED)
    refused: list[str] = []
    with at_most_more_bytes(180 * MB):
        while True:
            try:
                found = answer(teacher, arrays, WANTED)
                break
            except TeacherMemoryError as error:
                refused.append(str(error))
                teacher = set_rows(teacher, str(error))
    assert "too little memory for the logits of 256 positions" in refused[0]
    assert teacher.head_chunk_rows == 256 >> len(refused)
    assert (found["top_k_ids"] == expected["top_k_ids"]).all()


class Trunk(torch.nn.Module):
    """A trunk whose forward pass fails as a GPU's allocator does."""

    def forward(self, input_ids: torch.Tensor, **_: object) -> None:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(input_ids)} GiB.")


@pytest.mark.parametrize(
    ("num_blocks", "by_block", "way_out"),
    [
        (6, False, "set [train] micro_batch_blocks = 3 or [teacher] block_by_block = true"),
        (6, True, f"set [data] block_tokens = {T // 2}"),
        (1, False, f"set [data] block_tokens = {T // 2}"),
    ],
)
def test_a_forward_pass_that_does_not_fit(
    teacher: FrozenModel, num_blocks: int, by_block: bool, way_out: str
) -> None:
    arrays = known_request("topk").arrays
    for name in ("input_ids", "position_ids"):
        arrays[name] = np.repeat(arrays[name], num_blocks, axis=0)
    wanted = WANTED.model_copy(update={"by_block": by_block})
    with pytest.raises(TeacherMemoryError, match=re.escape(way_out)) as caught:
        answer(replace(teacher, trunk=Trunk()), arrays, wanted)
    assert "CUDA out of memory. Tried to allocate" in str(caught.value)


class OneRequest:
    """A link with requests, which keeps what happens to them."""

    num_queued = 0

    def __init__(self, *requests: tuple[dict[str, Array], Wanted]) -> None:
        self._works = [
            Work(0, Request(request_id=number, wanted=wanted), arrays)
            for number, (arrays, wanted) in enumerate(requests)
        ]
        self.rejections: dict[int, str] = {}
        self.failures: dict[int, str] = {}
        self.given_back: dict[int, str] = {}
        self.replies: list[int] = []

    def next_request(self) -> Work | None:
        return self._works.pop(0) if self._works else None

    def reply(self, work: Work, _arrays: dict[str, Array], _seconds: float) -> None:
        self.replies.append(work.request.request_id)

    def fail(self, work: Work, reason: str) -> None:
        self.failures[work.request.request_id] = reason

    def give_back(self, work: Work, reason: str) -> None:
        self.given_back[work.request.request_id] = reason

    def close(self) -> None:
        pass


def test_the_teacher_goes_on_after_a_refusal(teacher: FrozenModel) -> None:
    teacher = replace(teacher, head=torch.randn(NUM_TOKENS, D), vocab_size=NUM_TOKENS)
    teacher = replace(teacher, head_chunk_rows=256)
    link = OneRequest((large_request(256), WANTED), (large_request(8), WANTED))
    with at_most_more_bytes(180 * MB):
        serve_requests(teacher, NO_SENSES, link)
    assert link.replies == [1]
    assert link.failures[0].startswith("the teacher has too little memory")
