"""Asks the teacher ahead for all that a run will ask, and keeps it; `dskd teach` starts it.

    mpirun -n R python -m dskd_ds.commands.fill_signals --spec FILE.toml

Each rank has a teacher and takes every R-th block. What the cache has already is not asked again,
so a fill that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from tqdm import tqdm

from dskd_ds.commands.fill_room import refuse_losses, refuse_too_small, report_removed
from dskd_ds.data.batches import BlockSource, make_batch, num_targets
from dskd_ds.data.block import Block
from dskd_ds.data.source import num_steps, open_source
from dskd_ds.errors import InputError
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.plan.whole_teacher import check_whole_teacher
from dskd_ds.runtime.arguments import rank_parser
from dskd_ds.runtime.console import quiet_libraries, quiet_progress
from dskd_ds.runtime.devices import use_threads
from dskd_ds.runtime.mpi import Communicator, run_or_abort_all_ranks
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.signal_cache.cache import SignalCache
from dskd_ds.signal_cache.folder import note_teacher, open_cache
from dskd_ds.signals.kind import PARTS
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.replies.requests import RequestBuilder, TeacherRequest
from dskd_ds.teacher.answer import answer


@dataclass
class Filled:
    """What one rank has done."""

    num_blocks: int = 0
    num_asked: int = 0
    """Blocks of which the teacher was asked something."""


def main() -> int:
    """Parse the arguments and do this rank's share; returns the exit code."""
    quiet_libraries()
    quiet_progress()
    args = rank_parser("dskd_ds.commands.fill_signals", __doc__ or "").parse_args()
    return run_or_abort_all_ranks(lambda: run(load_spec(args.spec, args.set)))


def run(spec: RunSpec) -> None:
    """Fill the cache for this rank's share of the run's blocks. Raises InputError."""
    check_whole_teacher(spec, "dskd teach")
    comm = Communicator()
    use_threads(spec.topology.threads_per_rank)
    models = RunModels.of(spec)
    source = open_source(
        spec.data,
        models.teacher.tokenizer,
        seed=spec.seed,
        step_blocks=spec.train.global_batch_blocks,
        max_tokens=models.max_tokens,
        lanes=own_lanes(spec, comm.rank, comm.size) if spec.data.stream else None,
    )
    if spec.data.stream:
        places = stream_places(spec, source, own_lanes(spec, comm.rank, comm.size))
        groups = [[place] for place in places]  # it has no epochs, and cannot go back
    else:
        all_groups, num_positions = places_by_block(source, run_places(spec, source))
        refuse_too_small(spec, models, len(all_groups), num_positions)
        groups = all_groups[comm.rank :: comm.size]
    fingerprint = reply_fingerprint(spec, models)
    try:
        note_teacher(spec.teacher, fingerprint)
    except OSError as error:
        raise InputError(
            f'[teacher] cache_dir = "{spec.teacher.cache_folder}", but it cannot be written to:'
            f" {error.strerror}.\n  name another folder, or make room."
        ) from None
    cached = open_cache(spec.teacher, fingerprint)
    filled = fill(spec, models, source, groups, cached, num_ranks=comm.size)
    comm.barrier()
    print(
        f"rank {comm.rank}: {filled.num_blocks:,} blocks, of which the teacher was asked about"
        f" {filled.num_asked:,}",
        file=sys.stderr,
    )


def own_lanes(spec: RunSpec, rank: int, num_ranks: int) -> range:
    """Return the lanes of a stream that a rank reads: it tokenises no others."""
    return range(rank, spec.train.global_batch_blocks, num_ranks)


def stream_places(spec: RunSpec, source: BlockSource, lanes: range) -> list[int]:
    """Return the places of some lanes of a stream, in the order in which it must be read."""
    num_lanes = spec.train.global_batch_blocks
    return [place for place in run_places(spec, source) if place % num_lanes in lanes]


def places_by_block(source: BlockSource, places: Iterable[int]) -> tuple[list[list[int]], int]:
    """Return places of the run's global order, those of blocks with the same content together.

    The second result is the number of positions with a target, each block counted once.

    A block comes again in each epoch. Its places are filled together, so that the teacher reads it
    once, though other sense positions are drawn for it in each epoch.
    """
    groups: dict[bytes, list[int]] = {}
    num_positions = 0
    for place in tqdm(places, desc="reading blocks", unit="block", disable=None):
        _, block = source.get(place)
        group = groups.setdefault(_content_digest(block), [])
        if not group:
            num_positions += num_targets(block)
        group.append(place)
    return list(groups.values()), num_positions


def _content_digest(block: Block) -> bytes:
    """Return a digest of what the teacher reads of a block, and of what is learned there."""
    content = [block["input_ids"], block["segment_starts"], np.ravel(block["unsupervised"])]
    digest = hashlib.blake2b(digest_size=16)
    for numbers in content:
        array = np.asarray(numbers, "<i8")
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(array.tobytes())
    return digest.digest()


def run_places(spec: RunSpec, source: BlockSource) -> Iterator[int]:
    """Yield the places that the run trains on, without those whose text the student writes."""
    for step in range(num_steps(spec, source)):
        if spec.train.on_policy_fraction > 0:
            from dskd_ds.student.on_policy import is_on_policy  # imports deepspeed

            if is_on_policy(spec.train.on_policy_fraction, step):
                continue
        first = step * spec.train.global_batch_blocks
        yield from range(first, first + spec.train.global_batch_blocks)


def fill(
    spec: RunSpec,
    models: RunModels,
    source: BlockSource,
    groups: Sequence[Sequence[int]],
    cached: SignalCache,
    num_ranks: int = 1,
) -> Filled:
    """Ask the teacher for all that is missing of some blocks, and keep it.

    num_ranks: that fill at the same time, each about as many blocks. Raises InputError if the disk
    is full, if the students would refuse what the teacher says, or if anything that is kept of this
    teacher was removed to make room.
    """
    sizes = vocab_size, hidden_size = models.shared_vocab_size, models.teacher.hidden_size
    builder = RequestBuilder(spec, _retriever(spec), vocab_size, hidden_size)

    @cache
    def teacher() -> FrozenModel:
        return load_frozen(models.teacher, vocab_size=vocab_size)

    filled = Filled()
    try:
        for group in tqdm(groups, desc="teacher signal", unit="block", disable=None):
            request = whole_request(builder, source, group)
            found = cached.look_up(request.arrays, request.wanted, sizes)
            filled.num_blocks += 1
            if not found.num_missing:
                continue
            filled.num_asked += 1
            fresh = answer(teacher(), found.request(), request.wanted)
            try:
                builder.parts(request, found.reply(fresh, sizes))  # as the students will
            except ValueError as error:
                raise _invalid_signal(spec, request, error) from None
            cached.keep(found, fresh)
            if not cached.store.is_writing:
                raise InputError(
                    f'[teacher] cache_dir = "{spec.teacher.cache_folder}", but it cannot be written'
                    " to any more.\n  make room, or name another folder; the same command goes on."
                )
            num_left = (len(groups) - filled.num_blocks) * num_ranks
            refuse_losses(cached.store, filled.num_asked, num_left, num_ranks)
    finally:
        cached.store.close()
        report_removed(cached.store)
    return filled


def _invalid_signal(spec: RunSpec, request: TeacherRequest, reason: ValueError) -> InputError:
    sample = request.batch.samples[0]
    return InputError(
        f'[teacher] model = "{spec.teacher.model}": its signal for block {sample.block} of epoch'
        f" {sample.epoch} is invalid, and the students would refuse it: {reason}.\n"
        "  NaN and infinite values come from overflow or damaged weights: set [teacher] dtype ="
        ' "float32", or name another model. What was kept of other blocks stays.'
    )


def whole_request(
    builder: RequestBuilder, source: BlockSource, places: Sequence[int]
) -> TeacherRequest:
    """Return a block's request, with the positions that any epoch asks for."""
    requests: list[TeacherRequest] = []
    for place in places:
        sample, block = source.get(place)
        requests.append(builder.request(make_batch([block], [sample])))
    first = requests[0]
    positions = {
        part: np.unique(np.concatenate([request.positions[part] for request in requests]))
        for part in PARTS
    }
    of_all = {f"{part}_positions": where.astype(np.int32) for part, where in positions.items()}
    return replace(first, positions=positions, arrays=first.arrays | of_all)


def _retriever(spec: RunSpec) -> SenseRetriever | None:
    """Return what draws the sense positions. It needs no index, because nothing is chosen."""
    if not spec.uses_senses:
        return None
    dictionary = open_dictionary(spec.senses.dictionary, verify=False)
    return SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)


if __name__ == "__main__":
    sys.exit(main())
