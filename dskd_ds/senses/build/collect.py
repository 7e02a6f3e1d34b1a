"""Collects the states of a teacher that reads a corpus, each with the token it belongs to.

A position's hidden state belongs to the token it predicts. Forward batches are fixed globally and
then divided among the ranks, so the collection does not depend on the number of ranks. What a
killed launch committed is not read again. All ranks must see the folder that the others write:
before the collection is used, each rank checks that it sees every batch.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.batches import IGNORE, Sample, make_batch
from dskd_ds.data.block import Blocks
from dskd_ds.data.packing import begin_ids
from dskd_ds.errors import InputError
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.full_disk import full_disk_as_input_error
from dskd_ds.senses.build.spill import BackgroundSpill, Collected, Layout, Spill, rank_folder
from dskd_ds.senses.build.vectors import Rows, is_text, make_rows, position_hashes
from dskd_ds.senses.dictionary.identity import leaves_out_sinks
from dskd_ds.senses.dictionary.sinks import is_sink, squared_lengths
from dskd_ds.spec import RunSpec
from dskd_ds.spec.senses import SensesSpec

FORWARD_TOKENS = 1024
"""Approximate number of tokens per forward pass. It is not a setting of the machine, because the
content of a dictionary depends on it."""
VISIBLE_SECONDS = 90.0
"""How long a rank waits to see another node's files. NFS caches a folder's listing up to 60 s."""
HEAD_POSITIONS = 512
"""Logits exist for this many positions at a time."""


@dataclass(frozen=True)
class ForwardBatch:
    """One forward pass."""

    index: int
    blocks: tuple[int, ...]
    """Indices of the corpus's blocks that it reads."""


def forward_batches(
    num_blocks: int, block_tokens: int, num_tokens: int, seed: int
) -> list[ForwardBatch]:
    """Return the forward passes that read about `num_tokens`, for all ranks together.

    Their blocks are drawn over the whole corpus. All batches have the same number of blocks.
    """
    generator = torch.Generator().manual_seed(seed)
    num_read = max(1, num_tokens // block_tokens)
    order = torch.randperm(num_blocks, generator=generator)[:num_read].tolist()
    batch_blocks = max(1, min(FORWARD_TOKENS // block_tokens, len(order)))
    # An incomplete last batch is left out: with one shape for all batches, no state depends on
    # which rank computes it.
    starts = range(0, len(order) - batch_blocks + 1, batch_blocks)
    return [
        ForwardBatch(index, tuple(order[start : start + batch_blocks]))
        for index, start in enumerate(starts)
    ]


def collection_layout(teacher: NamedModel, vectors_per_token: int) -> Layout:
    """Return how a collection of this teacher's states is divided into buckets."""
    return Layout(teacher.hidden_size, teacher.vocab_size, vectors_per_token)


def collect(
    spec: RunSpec,
    teacher: NamedModel,
    blocks: Blocks,
    work: Path,
    comm: Communicator,
    layout: Layout | None = None,
    load: Callable[[], FrozenModel] | None = None,
) -> Collected:
    """Read what is missing in the collection in `work`. Collective.

    layout: None takes that of the spec. load: loads the teacher; it is called only if something is
    missing. Returns the whole collection on every rank.
    Raises InputError if a rank does not see what the others collected, or if the disk is full.
    """
    layout = layout or collection_layout(teacher, spec.senses.vectors_per_token)
    done = Collected(work, layout).batches
    comm.barrier()  # no rank writes before all have read what exists
    batches = forward_batches(
        num_blocks=len(blocks),
        block_tokens=spec.data.block_tokens,
        num_tokens=spec.senses.collect_tokens,
        seed=spec.seed,
    )
    missing = [batch for batch in batches if batch.index not in done]
    own_batches = missing[comm.rank :: comm.size]
    num_tokens = [len(batch.blocks) * spec.data.block_tokens for batch in batches]
    bar = tqdm(
        total=sum(num_tokens),
        initial=sum(num_tokens[index] for index in done),
        unit="tokens",
        disable=comm.rank > 0,
        desc=f"collecting states on {comm.size} ranks",
    )
    reading = read_batches(
        spec=spec,
        named=teacher,
        load=load or partial(load_frozen, teacher),
        blocks=blocks,
        batches=own_batches,
        folder=rank_folder(work, comm.rank),
        layout=layout,
    )
    with bar, full_disk_as_input_error(work, "collection", "collection_dir"):
        for step, _ in enumerate(reading):
            # The other ranks read about as fast: count their batches too.
            of_all_ranks = missing[step * comm.size : (step + 1) * comm.size]
            bar.update(sum(num_tokens[batch.index] for batch in of_all_ranks))
    comm.barrier()
    return whole_collection(work, layout, len(batches))


def read_batches(
    spec: RunSpec,
    named: NamedModel,
    load: Callable[[], FrozenModel],
    blocks: Blocks,
    batches: list[ForwardBatch],
    folder: Path,
    layout: Layout,
) -> Iterator[None]:
    """Read this rank's batches into its folder; yield after each batch."""
    if not batches:
        return  # a complete collection is used without loading the teacher
    teacher = load()
    begin = begin_ids(named.tokenizer)
    spill = BackgroundSpill(Spill(folder, layout))
    for batch in batches:
        rows = attributed(teacher, blocks, batch=batch, spec=spec, begin=begin)
        spill.add(rows, batch.index)
        yield
    spill.close()


def whole_collection(work: Path, layout: Layout, num_batches: int) -> Collected:
    """Wait until this rank sees all batches of the collection, and return it.

    A network file system may show what others wrote only after a while.
    Raises InputError after VISIBLE_SECONDS.
    """
    deadline = time.monotonic() + VISIBLE_SECONDS
    while len((collected := Collected(work, layout)).batches) < num_batches:
        if time.monotonic() > deadline:
            raise InputError(
                f"{work}: {socket.gethostname()} sees only {len(collected.batches)} of"
                f" {num_batches} forward batches.\n"
                "  all ranks write below [senses] dictionary (or collection_dir):"
                " name a folder on a disk that all nodes share."
            )
        time.sleep(1)
    return collected


@torch.inference_mode()
def attributed(
    teacher: FrozenModel, blocks: Blocks, batch: ForwardBatch, spec: RunSpec, begin: list[int]
) -> Rows:
    """Run one forward pass and return its records.

    begin: the BOS token, if the tokenizer sets one (data/packing.py).
    """
    size = spec.data.block_tokens
    rows = [blocks[index] for index in batch.blocks]
    inputs = make_batch(rows, [Sample(0, index) for index in batch.blocks])
    states, last = teacher.states_of_layer(
        inputs.input_ids, inputs.position_ids, spec.senses.hidden_layer
    )
    # The states may be of any layer, but only the head's input tells what the teacher predicts.
    if spec.senses.attribution == "on":
        tokens = inputs.input_ids.flatten().numpy()
    else:
        tokens = attribution(
            teacher,
            last=last.flatten(0, 1),
            targets=inputs.targets.flatten(),
            senses=spec.senses,
        ).numpy()
    hashes = np.concatenate([position_hashes(spec.seed, row, size) for row in rows])
    positions = np.concatenate([index * size + np.arange(size) for index in batch.blocks])
    # NumPy has no bfloat16, so the records hold its bits.
    states = states.flatten(0, 1)
    rounded = states.to(torch.bfloat16)
    bits = rounded.view(torch.int16).cpu().numpy().view(np.uint16)
    text = np.concatenate([is_text(row, size, begin) for row in rows])
    kept = (tokens != IGNORE) & text
    if leaves_out_sinks(spec.senses):
        squared = squared_lengths(states)
        kept &= ~is_sink(squared, squared.median()).cpu().numpy()
    return make_rows(
        tokens=tokens[kept], hashes=hashes[kept], positions=positions[kept], states=bits[kept]
    )


def attribution(teacher: FrozenModel, last: Tensor, targets: Tensor, senses: SensesSpec) -> Tensor:
    """Return the token [N] that each state predicts, by argmax or by the text; IGNORE for none.

    last: [N, D] what the teacher's head reads. targets: [N] the tokens that follow.
    A state belongs to none if the teacher's probability of the token is below min_confidence.
    """
    if senses.attribution == "next" and not senses.min_confidence:
        return targets
    parts = []
    for hidden, following in zip(
        last.split(HEAD_POSITIONS), targets.split(HEAD_POSITIONS), strict=True
    ):
        logits = teacher.logits(hidden)
        if senses.attribution == "argmax":
            tokens = logits.argmax(dim=1)
        else:
            tokens = following.to(logits.device)
        if senses.min_confidence:
            # A target of IGNORE is no index; it stays IGNORE whatever is read in its place.
            chosen = logits.gather(1, tokens.clamp_min(0)[:, None]).squeeze(1).float()
            logprobs = chosen - logits.float().logsumexp(dim=1)
            confident = logprobs >= math.log(senses.min_confidence)
            tokens = torch.where(confident, tokens, IGNORE)
        parts.append(tokens)
    return torch.cat(parts).cpu()
