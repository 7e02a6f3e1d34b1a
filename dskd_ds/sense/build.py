"""Build the sense dictionary and its index: `mpirun -n R python -m dskd_ds.sense.build --spec FILE.toml`.

Every rank reads its share of the corpus with the teacher; rank 0 merges the samples, clusters, relates, and builds the index.
The result does not depend on R. `dskd senses build` starts it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dskd_ds import __version__
from dskd_ds.compute import local_device, use_threads
from dskd_ds.data.blocks import train_blocks
from dskd_ds.errors import DskdError, InputError
from dskd_ds.lexicon.merge import Relations, relations_of
from dskd_ds.lexicon.sources import lexicon_digest, read_lexicon
from dskd_ds.observe.console import quiet_progress
from dskd_ds.sense.cluster import cluster
from dskd_ds.sense.collect import Reservoir, Vectors, attributed, forward_batches, split_queries
from dskd_ds.sense.dictionary import open_dictionary, write_dictionary
from dskd_ds.sense.index import build_index
from dskd_ds.sense.relations import token_relations
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.teacher.checkpoint import load_tokenizer, model_fingerprint, resolve_model, tokenizer_fingerprint
from dskd_ds.teacher.model import load_teacher

FORWARD_TOKENS = 1024
"""About how many tokens a forward pass reads; part of what makes a dictionary, so not a setting of the machine."""
MAX_QUERIES = 512

BUILD_SETTINGS = ("collect_tokens", "attribution", "vectors_per_token", "num_senses", "max_span_tokens", "index_dims",
                  "index_links", "index_build_effort", "index_search_effort", "paper_exact")
"""The fields of [senses] that a built dictionary depends on."""


def dictionary_key(spec: RunSpec, blocks: Any) -> dict[str, Any]:
    """Everything a dictionary depends on: two builds with equal keys are equal."""
    path = resolve_model(spec.teacher.model)
    return {
        "teacher": model_fingerprint(path), "tokenizer": tokenizer_fingerprint(load_tokenizer(path)),
        "corpus": blocks._fingerprint, "block_tokens": spec.data.block_tokens, "seed": spec.seed,
        "lexicon": lexicon_digest(spec.senses),
        "settings": {name: getattr(spec.senses, name) for name in BUILD_SETTINGS},
    }


def read_lexicons(spec: RunSpec) -> Relations:
    """The relations of all of the spec's lexicons. Raises InputError."""
    return relations_of(read_lexicon(spec.senses).merged.table)


def existing(spec: RunSpec, key: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of the dictionary in place, if it is whole and has this key."""
    try:
        facts = open_dictionary(spec.senses.dictionary).facts
    except InputError:
        return None
    return facts if all(facts.get(name) == value for name, value in key.items()) else None


def collect(spec: RunSpec, blocks: Any, comm: Communicator) -> Vectors | None:
    """Every rank reads its batches; rank 0 gets the merged sample, the others None."""
    teacher = load_teacher(spec.teacher)
    size = spec.data.block_tokens
    generator = torch.Generator().manual_seed(spec.seed)
    order = torch.randperm(len(blocks), generator=generator)[: max(1, spec.senses.collect_tokens // size)].tolist()
    at_once = max(1, min(FORWARD_TOKENS // size, len(order)))
    reservoir = Reservoir(spec.senses.vectors_per_token, teacher.hidden_size)
    batches = list(forward_batches(len(order), at_once, comm.rank, comm.size))
    with tqdm(total=len(batches) * at_once * size, desc=f"collecting states on {comm.size} ranks", unit="tokens",
              disable=comm.rank > 0) as bar:
        for batch in batches:
            rows = [blocks[order[place]] for place in batch]
            reservoir.add(attributed(teacher, rows, spec.senses, spec.seed))
            bar.update(at_once * size)
    gathered = _gather(reservoir.vectors(), comm)
    return gathered.smallest(spec.senses.vectors_per_token) if gathered else None


def _gather(vectors: Vectors, comm: Communicator) -> Vectors | None:
    """All ranks' vectors at rank 0, as raw buffers."""
    sizes = comm.allgather_int(len(vectors))
    tokens, hashes, states = (comm.gather_bytes(array) for array in (vectors.tokens, vectors.hashes, vectors.states))
    if tokens is None or hashes is None or states is None:
        return None
    return Vectors(np.frombuffer(tokens, np.int64), np.frombuffer(hashes, np.uint64),
                   np.frombuffer(states, np.uint16).reshape(sum(sizes), -1))


class Communicator:
    """The few collectives used here, with typed buffers only (mpi4py's lower-case methods pickle)."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._mpi, self._world = MPI, MPI.COMM_WORLD
        self.rank, self.size = int(self._world.rank), int(self._world.size)

    def allgather_int(self, value: int) -> list[int]:
        """One integer of each rank, everywhere."""
        result = np.zeros(self.size, np.int64)
        self._world.Allgather(np.array([value], np.int64), result)
        return [int(v) for v in result]

    def gather_bytes(self, array: np.ndarray[Any, Any]) -> bytearray | None:
        """The arrays' bytes one after the other at rank 0; None elsewhere."""
        sizes = self.allgather_int(array.nbytes)
        target = bytearray(sum(sizes)) if self.rank == 0 else None
        self._world.Gatherv([np.ascontiguousarray(array), array.nbytes, self._mpi.BYTE],
                            [target, sizes, self._mpi.BYTE] if self.rank == 0 else None)
        return target

    def barrier(self) -> None:
        """Wait for all."""
        self._world.Barrier()

    def abort(self, code: int) -> None:
        """End every rank."""
        self._world.Abort(code)


def build(spec: RunSpec, comm: Communicator, force: bool = False) -> dict[str, Any] | None:
    """Build what the spec's [senses] describes, unless it is there. Rank 0 returns the dictionary's facts, the others None."""
    blocks = train_blocks(spec)
    key = dictionary_key(spec, blocks)
    if not force and (facts := existing(spec, key)):
        return facts if comm.rank == 0 else None
    relations = read_lexicons(spec) if comm.rank == 0 else None  # a wrong path shows before the long work
    started = time.monotonic()
    vectors = collect(spec, blocks, comm)
    if vectors is None:
        return None
    assert relations is not None
    collect_seconds = time.monotonic() - started
    kept, held_out = split_queries(vectors)
    senses = cluster(kept, spec.senses.num_senses, spec.seed, local_device())
    tokenizer = load_tokenizer(resolve_model(spec.teacher.model))
    vocab_size = load_vocab_size(spec)
    related = token_relations(relations, tokenizer, vocab_size, spec.senses.max_span_tokens,
                              min_span_tokens=2 if spec.senses.paper_exact else 1)
    folder = Path(spec.senses.dictionary)
    facts = key | {"vocab_size": vocab_size, "num_vectors": len(vectors), "made_by": f"dskd-ds {__version__}",
                   "collect_seconds": round(collect_seconds, 1)}
    write_dictionary(folder, senses, related, facts, spec.senses.num_senses)
    queries = torch.from_numpy(held_out.states.view(np.int16)).view(torch.bfloat16)[:MAX_QUERIES]
    dictionary = open_dictionary(folder, verify=False)
    return dictionary.facts | {"index": build_index(dictionary, spec.senses, queries)}


def load_vocab_size(spec: RunSpec) -> int:
    """Rows of the teacher's head."""
    from dskd_ds.teacher.checkpoint import read_config

    return int(read_config(resolve_model(spec.teacher.model)).get_text_config().vocab_size)


def main() -> int:
    """Parse, build, print what was built."""
    quiet_progress()
    parser = argparse.ArgumentParser(prog="python -m dskd_ds.sense.build", description=__doc__.splitlines()[0])
    parser.add_argument("--spec", required=True, help="the run's TOML spec")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the spec")
    parser.add_argument("--force", action="store_true", help="build anew even if the dictionary is there")
    args = parser.parse_args()
    comm = Communicator()
    try:
        spec = load_spec(args.spec, args.set)
        use_threads(spec.topology.threads_per_rank)
        facts = build(spec, comm, args.force)
    except DskdError as error:
        if comm.rank == 0:
            print(error, file=sys.stderr, flush=True)
        if comm.size > 1:
            comm.abort(int(error.exit_code))
        return int(error.exit_code)
    if facts:
        print(f"{spec.senses.dictionary}: {facts['num_rows']} senses of {facts['num_tokens']} tokens and {facts['num_spans']} spans,"
              f" {facts['num_related_tokens']} tokens with relations.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
