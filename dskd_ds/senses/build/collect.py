"""The teacher reads a corpus; each of its states, with the token it belongs to, goes to the collection on disk.

A position's hidden state belongs to the token it predicts. Forward batches are fixed globally and then dealt to ranks, so what is
collected does not depend on their number; what a killed launch had committed is not read again.
All ranks must see the folder that the others write: whether every batch is in it is looked at before anything is made of it.
"""

from __future__ import annotations

import errno
import math
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.batches import IGNORE, Sample, make_batch
from dskd_ds.data.block import Blocks
from dskd_ds.data.packing import begin_ids
from dskd_ds.errors import InputError
from dskd_ds.models.frozen import TeacherModel, load_teacher
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.spill import BackgroundSpill, Collected, Layout, Spill, rank_folder
from dskd_ds.senses.build.vectors import Rows, is_text, make_rows, position_hashes
from dskd_ds.spec import RunSpec
from dskd_ds.spec.senses import SensesSpec

FORWARD_TOKENS = 1024
"""About how many tokens a forward pass reads; part of what makes a dictionary, so not a setting of the machine."""
VISIBLE_SECONDS = 90.0
"""How long what one node wrote may stay unseen by another (NFS keeps a folder's listing for up to 60 s)."""
HEAD_POSITIONS = 512
"""Logits exist for this many positions at a time."""


@dataclass(frozen=True)
class ForwardBatch:
    """One forward pass."""

    number: int
    blocks: tuple[int, ...]
    """Which of the corpus's blocks it reads."""


def forward_batches(
    num_blocks: int, block_tokens: int, num_tokens: int, seed: int
) -> list[ForwardBatch]:
    """The forward passes that read about `num_tokens`, from blocks drawn over the whole corpus; the same for any number of ranks."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_blocks, generator=generator)[
        : max(1, num_tokens // block_tokens)
    ].tolist()
    at_once = max(1, min(FORWARD_TOKENS // block_tokens, len(order)))
    return [
        ForwardBatch(number, tuple(order[start : start + at_once]))
        for number, start in enumerate(range(0, len(order) - at_once + 1, at_once))
    ]


def collection_layout(teacher: NamedModel, vectors_per_token: int) -> Layout:
    """Return how a collection of this teacher's states lies on disk."""
    return Layout(teacher.hidden_size, teacher.vocab_size, vectors_per_token)


def collect(
    spec: RunSpec, teacher: NamedModel, blocks: Blocks, work: Path, comm: Communicator
) -> Collected:
    """Read what the collection in `work` still lacks. Every rank returns the whole collection.

    Raises InputError if a rank does not see what the others collected, or the disk is full.
    """
    layout = collection_layout(teacher, spec.senses.vectors_per_token)
    done = Collected(work, layout).batches
    comm.barrier()  # nobody writes before all have read what is there
    batches = forward_batches(
        len(blocks), spec.data.block_tokens, spec.senses.collect_tokens, spec.seed
    )
    left = [batch for batch in batches if batch.number not in done]
    mine = left[comm.rank :: comm.size]
    tokens = [len(batch.blocks) * spec.data.block_tokens for batch in batches]
    with tqdm(
        total=sum(tokens),
        initial=sum(tokens[number] for number in done),
        unit="tokens",
        disable=comm.rank > 0,
        desc=f"collecting states on {comm.size} ranks",
    ) as bar:
        try:
            for place, _ in enumerate(
                read_batches(spec, teacher, blocks, mine, rank_folder(work, comm.rank), layout)
            ):
                together = left[
                    place * comm.size : (place + 1) * comm.size
                ]  # the other ranks keep step, about
                bar.update(sum(tokens[other.number] for other in together))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"{work}: the collection cannot be written: {error.strerror}.\n"
                "  make room, or name a larger disk in [senses] collection_dir; what was read is kept."
            ) from None
    comm.barrier()
    return whole_collection(work, layout, len(batches))


def read_batches(
    spec: RunSpec,
    named: NamedModel,
    blocks: Blocks,
    batches: list[ForwardBatch],
    folder: Path,
    layout: Layout,
) -> Iterator[None]:
    """This rank's share of the reading, a batch at a time."""
    if not batches:
        return
    teacher = load_teacher(named)
    begin = begin_ids(named.tokenizer)
    spill = BackgroundSpill(Spill(folder, layout))
    for batch in batches:
        spill.add(attributed(teacher, blocks, batch, spec, begin), batch.number)
        yield
    spill.close()


def whole_collection(work: Path, layout: Layout, num_batches: int) -> Collected:
    """The collection, once this rank sees all of it: a network file system may show what others wrote a while later."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while len((collected := Collected(work, layout)).batches) < num_batches:
        if time.monotonic() > deadline:
            raise InputError(
                f"{work}: {len(collected.batches)} of {num_batches} forward batches are there, seen from "
                f"{socket.gethostname()}.\n  all ranks write below [senses] dictionary (or collection_dir): name a folder on "
                "a disk that all nodes share."
            )
        time.sleep(1)
    return collected


@torch.inference_mode()
def attributed(
    teacher: TeacherModel, blocks: Blocks, batch: ForwardBatch, spec: RunSpec, begin: list[int]
) -> Rows:
    """The records of one forward pass. begin: the BOS token, if the tokenizer sets one (data/packing.py)."""
    size = spec.data.block_tokens
    rows = [blocks[number] for number in batch.blocks]
    inputs = make_batch(rows, [Sample(0, number) for number in batch.blocks])
    states, last = teacher.states_of_layer(
        inputs.input_ids, inputs.position_ids, spec.senses.hidden_layer
    )
    tokens = attribution(teacher, last.flatten(0, 1), inputs.targets.flatten(), spec.senses).numpy()
    hashes = np.concatenate([position_hashes(spec.seed, row, size) for row in rows])
    places = np.concatenate([number * size + np.arange(size) for number in batch.blocks])
    bits = states.flatten(0, 1).to(torch.bfloat16).view(torch.int16).cpu().numpy().view(np.uint16)
    kept = (tokens != IGNORE) & np.concatenate([is_text(row, size, begin) for row in rows])
    return make_rows(tokens[kept], hashes[kept], places[kept], bits[kept])


def attribution(teacher: TeacherModel, last: Tensor, targets: Tensor, senses: SensesSpec) -> Tensor:
    """The token that each of N states [N, D] belongs to; IGNORE where none does, or the teacher is less sure of it than wanted."""
    if senses.attribution == "next" and not senses.min_confidence:
        return targets
    parts = []
    for hidden, following in zip(
        last.split(HEAD_POSITIONS), targets.split(HEAD_POSITIONS), strict=True
    ):
        logits = teacher.logits(hidden)
        tokens = (
            logits.argmax(dim=1) if senses.attribution == "argmax" else following.to(logits.device)
        )
        if senses.min_confidence:
            chosen = logits.gather(1, tokens.clamp_min(0)[:, None]).squeeze(1).float()
            tokens = torch.where(
                chosen - logits.float().logsumexp(dim=1) >= math.log(senses.min_confidence),
                tokens,
                IGNORE,
            )
        parts.append(tokens)
    return torch.cat(parts).cpu()
