"""Build or refresh the sense dictionary and its index: `mpirun -n R python -m dskd_ds.sense.build --spec FILE.toml [--refresh]`.

Ranks share the reading of the corpus, then the clustering of the tokens; rank 0 puts the parts together, relates words, and builds
the index. The result does not depend on R. What is done lies in `<dictionary>.work`, or in `[senses] collection_dir`, on a disk that all
ranks see, until the dictionary is whole, so that a killed build goes on. `dskd senses build` and `dskd senses refresh` start it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dskd_ds import __version__
from dskd_ds.compute import use_threads
from dskd_ds.data.blocks import train_blocks
from dskd_ds.errors import InputError
from dskd_ds.lexicon.merge import Relations, relations_of
from dskd_ds.lexicon.sources import lexicon_digest, read_lexicon
from dskd_ds.manifest import MANIFEST_FILE
from dskd_ds.mpi import Communicator, end_together
from dskd_ds.observe.console import quiet_progress
from dskd_ds.preflight import preflight
from dskd_ds.sense.collect import collect
from dskd_ds.sense.dictionary import SenseDictionary, open_dictionary, write_dictionary
from dskd_ds.sense.index import ensure_index
from dskd_ds.sense.parts import Parts, cluster_parts
from dskd_ds.sense.refresh import check_refresh, has_read
from dskd_ds.sense.relations import token_relations
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.teacher.checkpoint import file_sha256, load_tokenizer, model_fingerprint, resolve_model, tokenizer_fingerprint

MAX_QUERIES = 512

COLLECT_SETTINGS = ("collect_tokens", "attribution", "hidden_layer", "min_confidence", "vectors_per_token")
"""The fields of [senses] that a collection depends on."""
BUILD_SETTINGS = (*COLLECT_SETTINGS, "clustering", "num_senses", "min_senses", "sense_cost", "contexts_per_sense", "max_span_tokens",
                  "paper_exact")
"""The fields of [senses] that a built dictionary depends on. Its index has settings of its own (sense/index.py)."""


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


def refuse_to_forget(spec: RunSpec) -> None:
    """Raise InputError if the dictionary in place was refreshed: a build would lose the further corpora."""
    try:
        history = open_dictionary(spec.senses.dictionary, verify=False).facts["history"]
    except (InputError, KeyError):
        return
    if len(history) > 1:
        raise InputError(f'[senses] dictionary = "{spec.senses.dictionary}" was refreshed with {len(history) - 1} further corpora, which a'
                         " build with these settings would forget.\n"
                         "  add text with dskd senses refresh, name another folder, or build anew with --force.")


def build(spec: RunSpec, comm: Communicator, force: bool = False) -> dict[str, Any] | None:
    """Build what the spec's [senses] describes, unless it is there. Rank 0 returns the dictionary's facts, the others None."""
    blocks = corpus_blocks(spec)
    key = dictionary_key(spec, blocks)
    facts = existing(spec, key) if comm.rank == 0 and not force else None
    if comm.rank == 0 and not force and facts is None:
        refuse_to_forget(spec)
    if comm.from_first(facts is not None):
        with FirstRankLock("dictionary", spec.senses.dictionary, comm):
            return with_index(spec) if facts else None
    return make(spec, blocks, key, key | {"history": []}, comm)


def refresh(spec: RunSpec, comm: Communicator) -> dict[str, Any] | None:
    """Take the spec's corpus into the dictionary in place, unless it is in there. Returns as build does. Raises InputError."""
    blocks = corpus_blocks(spec)
    key = dictionary_key(spec, blocks)
    old = open_dictionary(spec.senses.dictionary, verify=comm.rank == 0)
    check_refresh(old, key)
    if has_read(old, key["corpus"]):
        with FirstRankLock("dictionary", spec.senses.dictionary, comm):
            return with_index(spec) if comm.rank == 0 else None
    base = file_sha256(old.folder / MANIFEST_FILE)
    changed = {name: key["settings"][name] for name in BUILD_SETTINGS if name not in COLLECT_SETTINGS}
    facts = old.facts | {"lexicon": key["lexicon"], "settings": old.facts["settings"] | changed}
    return make(spec, blocks, key | {"refreshes": base}, facts, comm, old)


def make(spec: RunSpec, blocks: Any, key: dict[str, Any], facts: dict[str, Any], comm: Communicator,
         old: SenseDictionary | None = None) -> dict[str, Any] | None:
    """Collect, cluster, write. facts: what the manifest is to say beside what is found here; its history grows by this corpus."""
    kept, digest = spec.senses.collection_dir, collection_digest(key)
    work = Path(f"{Path(spec.senses.dictionary)}.work") if kept is None else Path(kept)
    collection = work / digest
    with ExitStack() as locks:
        locks.enter_context(FirstRankLock("dictionary", spec.senses.dictionary, comm))
        if kept is not None:
            locks.enter_context(FirstRankLock("collection_dir", kept, comm, digest))
        relations = read_lexicons(spec) if comm.rank == 0 else None  # a wrong path shows before the long work
        collected = collect(spec, blocks, collection, comm)
        if not collected.buckets:
            raise InputError(f"[senses] min_confidence = {spec.senses.min_confidence}, but the teacher is never so sure.\n  lower it.")
        parts = Parts(collection / f"parts-{_digest(key)}")
        cluster_parts(collected, spec, blocks, parts.folder, comm, old)
        if relations is None:
            comm.barrier()  # rank 0 still reads the parts
            return None
        tokenizer = load_tokenizer(resolve_model(spec.teacher.model))
        vocab_size = collected.layout.vocab_size
        related = token_relations(relations, tokenizer, vocab_size, spec.senses.max_span_tokens,
                                  min_span_tokens=2 if spec.senses.paper_exact else 1)
        senses = parts.senses()
        new_vectors = int(senses.counts.sum()) - (int(old.sense_counts.sum()) if old else 0)
        facts = facts | {
            "vocab_size": vocab_size, "layer": spec.senses.hidden_layer, "num_vectors": int(senses.counts.sum()),
            "made_by": f"dskd-ds {__version__}", "history": [*facts["history"], history_entry(spec, blocks, new_vectors)]}
        held_out = parts.held_out(old.held_out() if old else None)
        write_dictionary(Path(spec.senses.dictionary), senses, related, facts, spec.senses.num_senses, parts.contexts(), held_out)
        facts = with_index(spec)
        del senses  # it has files of the work folder mapped
        shutil.rmtree(work if kept is None else parts.folder, ignore_errors=True)
        comm.barrier()
        return facts


def with_index(spec: RunSpec) -> dict[str, Any]:
    """Build the index of the dictionary in place, unless it is there with these settings. Returns the dictionary's facts."""
    dictionary = open_dictionary(spec.senses.dictionary, verify=False)
    ensure_index(dictionary, spec.senses, dictionary.held_out().states[:MAX_QUERIES])
    return dictionary.facts


def corpus_blocks(spec: RunSpec) -> Any:
    """The blocks to draw from. Raises InputError for a stream: a uniform draw needs the whole corpus."""
    if spec.data.stream:
        raise InputError("[data] stream = true, but senses are collected from blocks drawn over the whole corpus.\n"
                         "  build with --set data.stream=false, from a part of the corpus that fits on the disk.")
    return train_blocks(spec)


def history_entry(spec: RunSpec, blocks: Any, num_vectors: int) -> dict[str, Any]:
    """What the manifest remembers of a corpus. num_vectors: how many of its vectors are in the senses."""
    return {"corpus": blocks._fingerprint, "sources": [source.path for source in spec.data.train],
            "tokens": min(spec.senses.collect_tokens, len(blocks) * spec.data.block_tokens), "vectors": num_vectors, "seed": spec.seed}


def collection_digest(key: dict[str, Any]) -> str:
    """Of what a collection depends on, out of a dictionary's key."""
    return _digest({**key, "lexicon": None, "settings": {name: key["settings"][name] for name in COLLECT_SETTINGS}})


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class FirstRankLock:
    """Held by rank 0 while the ranks of one launch make what `[senses] key` names: two launches at once would tread on each other."""

    def __init__(self, key: str, folder: str, comm: Communicator, part: str = "") -> None:
        """part: of the folder, where others may be made meanwhile."""
        self._key, self._folder, self._comm = key, folder, comm
        path = Path(folder) / part
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock", timeout=0)

    def __enter__(self) -> None:
        if self._comm.rank == 0:
            try:
                self._lock.acquire()
            except Timeout:
                raise InputError(f'[senses] {self._key} = "{self._folder}", but another process is making it just now.\n'
                                 "  wait for it, or name another folder.") from None
        self._comm.barrier()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def main() -> int:
    """Parse, build, print what was built."""
    quiet_progress()
    parser = argparse.ArgumentParser(prog="python -m dskd_ds.sense.build", description=__doc__.splitlines()[0])
    parser.add_argument("--spec", required=True, help="the run's TOML spec")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the spec")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--force", action="store_true", help="build anew even if the dictionary is there")
    what.add_argument("--refresh", action="store_true", help="take the spec's corpus into the dictionary that is there")
    args = parser.parse_args()
    return end_together(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """One rank's part."""
    comm = Communicator()
    spec = load_spec(args.spec, args.set)
    preflight(spec, with_senses=False)
    use_threads(spec.topology.threads_per_rank)
    facts = refresh(spec, comm) if args.refresh else build(spec, comm, args.force)
    if facts:
        print(f"{spec.senses.dictionary}: {facts['num_rows']} senses of {facts['num_tokens']} tokens and {facts['num_spans']} spans,"
              f" {facts['num_related_tokens']} tokens with relations; {facts['num_vectors']} vectors"
              f" from {len(facts['history'])} {'corpora' if len(facts['history']) > 1 else 'corpus'}.")


if __name__ == "__main__":
    sys.exit(main())
