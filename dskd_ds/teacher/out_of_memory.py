"""Turns "out of memory" while a request is answered into a refusal that says what to set.

A request that is larger than this teacher's memory is larger than that of its equals too, so the
run ends with the refusal's text, and the text must say what a user can change.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dskd_ds.errors import DskdError
from dskd_ds.models.frozen import FrozenModel

CPU_ALLOCATOR_TEXTS = ("can't allocate memory", "not enough memory", "bad_alloc")
"""What torch's RuntimeError says if the CPU's allocator fails (c10/core/impl/alloc_cpu.cpp)."""


class TeacherMemoryError(DskdError):
    """A request needs more memory than the teacher has."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that an allocation failed, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in CPU_ALLOCATOR_TEXTS
    )


@contextmanager
def explained_out_of_memory(work: str, way_out: str) -> Iterator[None]:
    """Raise TeacherMemoryError if an allocation fails within the block.

    work: what needs the memory. way_out: the keys to set, and to what.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else "no details"
        raise TeacherMemoryError(
            f"the teacher has too little memory for {work}"
            f" ({type(error).__name__}: {first_line}).\n  {way_out}"
        ) from None


def explained_states(teacher: FrozenModel, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """Return `teacher.hidden_states`; raise TeacherMemoryError if its memory does not suffice."""
    num_blocks, num_tokens = input_ids.shape
    if num_blocks > 1:
        way_out = f"set [train] micro_batch_blocks = {num_blocks // 2} or [teacher] block_by_block"
        way_out += " = true: a forward pass then reads fewer tokens."
    else:
        way_out = f"set [data] block_tokens = {max(num_tokens // 2, 1)}, or use a smaller teacher."
    work = f"a forward pass of {num_blocks} x {num_tokens} tokens"
    with explained_out_of_memory(work, way_out):
        return teacher.hidden_states(input_ids, position_ids)


@contextmanager
def explained_logits(num_rows: int) -> Iterator[None]:
    """Raise TeacherMemoryError if there is no memory for a chunk of logits and what is taken of it.

    Draws need three more arrays of the size of the logits.
    """
    if num_rows > 1:
        way_out = f"set [teacher] head_chunk_rows = {num_rows // 2} for all teachers of the run."
    else:
        way_out = "use a teacher with a smaller vocabulary, or give its process more memory."
    with explained_out_of_memory(f"the logits of {num_rows} positions", way_out):
        yield


def release_memory() -> None:
    """Give the memory of a request that failed back to the allocator's users."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
