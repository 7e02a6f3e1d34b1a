"""Build or refresh the sense dictionary and its index: `mpirun -n R python -m dskd_ds.senses.build.build --spec FILE.toml [--refresh]`.

Ranks share the reading of the corpus, then the clustering of the tokens; rank 0 puts the parts together, relates words, and builds
the index. The result does not depend on R. What is done lies in `<dictionary>.work`, or in `[senses] collection_dir`, on a disk that all
ranks see, until the dictionary is whole, so that a killed build goes on. `dskd senses build` and `dskd senses refresh` start it.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dskd_ds import __version__
from dskd_ds.data.blocks import train_blocks
from dskd_ds.errors import InputError
from dskd_ds.files.hashes import file_sha256
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.lexicon.merge import Relations, relations_of
from dskd_ds.lexicon.relations import token_relations
from dskd_ds.lexicon.sources import read_lexicon
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.collect import collect
from dskd_ds.senses.build.parts import Parts, cluster_parts
from dskd_ds.senses.build.refresh import check_refresh, has_read
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.identity import (
    CLUSTER_SETTINGS,
    collection_digest,
    dictionary_key,
    digest_of,
)
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.senses.index.graph import ensure_index
from dskd_ds.spec import RunSpec
from dskd_ds.spec.data import DataSpec

MAX_QUERIES = 512


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
        raise InputError(
            f'[senses] dictionary = "{spec.senses.dictionary}" was refreshed with {len(history) - 1} further corpora, which a'
            " build with these settings would forget.\n"
            "  add text with dskd senses refresh, name another folder, or build anew with --force."
        )


def build(
    spec: RunSpec, teacher: NamedModel, comm: Communicator, force: bool = False
) -> dict[str, Any] | None:
    """Build what the spec's [senses] describes, unless it is there. Rank 0 returns the dictionary's facts, the others None."""
    blocks = corpus_blocks(spec.data, teacher.tokenizer)
    key = dictionary_key(spec, teacher, blocks, comm)
    facts = existing(spec, key) if comm.rank == 0 and not force else None
    if comm.rank == 0 and not force and facts is None:
        refuse_to_forget(spec)
    if comm.broadcast_flag_from_rank_0(facts is not None):
        return finish(spec, key, comm)
    return make(spec, teacher, blocks, key, key | {"history": []}, comm)


def refresh(spec: RunSpec, teacher: NamedModel, comm: Communicator) -> dict[str, Any] | None:
    """Take the spec's corpus into the dictionary in place, unless it is in there. Returns as build does. Raises InputError."""
    blocks = corpus_blocks(spec.data, teacher.tokenizer)
    key = dictionary_key(spec, teacher, blocks, comm)
    old = open_dictionary(spec.senses.dictionary, verify=comm.rank == 0)
    check_refresh(old, key)
    if has_read(old, key["corpus"]):
        return finish(spec, key, comm)
    base = file_sha256(old.folder / MANIFEST_FILE)
    changed = {name: key["settings"][name] for name in CLUSTER_SETTINGS}
    facts = old.facts | {"lexicon": key["lexicon"], "settings": old.facts["settings"] | changed}
    return make(spec, teacher, blocks, key | {"refreshes": base}, facts, comm, old)


def make(
    spec: RunSpec,
    teacher: NamedModel,
    blocks: Any,
    key: dict[str, Any],
    facts: dict[str, Any],
    comm: Communicator,
    old: SenseDictionary | None = None,
) -> dict[str, Any] | None:
    """Collect, cluster, write. facts: what the manifest is to say beside what is found here; its history grows by this corpus."""
    collection, parts_folder = work_folders(spec, key)
    with ExitStack() as locks:
        locks.enter_context(FirstRankLock("dictionary", spec.senses.dictionary, comm))
        if spec.senses.collection_dir is not None:
            locks.enter_context(
                FirstRankLock("collection_dir", spec.senses.collection_dir, comm, collection.name)
            )
        relations = (
            read_lexicons(spec) if comm.rank == 0 else None
        )  # a wrong path shows before the long work
        collected = collect(spec, teacher, blocks, collection, comm)
        if not collected.buckets:
            raise InputError(
                f"[senses] min_confidence = {spec.senses.min_confidence}, but the teacher is never so sure.\n  lower it."
            )
        parts = Parts(parts_folder)
        cluster_parts(collected, spec, teacher.tokenizer, blocks, parts.folder, comm, old)
        if relations is None:
            comm.barrier()  # rank 0 still reads the parts
            return None
        vocab_size = collected.layout.vocab_size
        related = token_relations(
            relations,
            teacher.tokenizer,
            vocab_size,
            spec.senses.max_span_tokens,
            min_span_tokens=2 if spec.senses.paper_exact else 1,
        )
        senses = parts.senses()
        new_vectors = int(senses.counts.sum()) - (int(old.sense_counts.sum()) if old else 0)
        facts = facts | {
            "vocab_size": vocab_size,
            "layer": spec.senses.hidden_layer,
            "num_vectors": int(senses.counts.sum()),
            "made_by": f"dskd-ds {__version__}",
            "history": [
                *facts["history"],
                history_entry(spec, key["corpus"], len(blocks), new_vectors),
            ],
        }
        held_out = parts.held_out(old.held_out() if old else None)
        write_dictionary(
            Path(spec.senses.dictionary),
            senses,
            related,
            facts,
            spec.senses.num_senses,
            parts.contexts(),
            held_out,
        )
        facts = with_index(spec)
        del senses  # it has files of the work folder mapped
        forget_work(spec, key)
        comm.barrier()
        return facts


def finish(spec: RunSpec, key: dict[str, Any], comm: Communicator) -> dict[str, Any] | None:
    """What an earlier call may have left to do when its dictionary was whole: the index, and the work folders. Returns as build does."""
    with FirstRankLock("dictionary", spec.senses.dictionary, comm):
        if comm.rank > 0:
            return None
        facts = with_index(spec)
        forget_work(spec, key)
        return facts


def work_folders(spec: RunSpec, key: dict[str, Any]) -> tuple[Path, Path]:
    """Where a dictionary's collection lies, and the parts that are made from it."""
    work = Path(spec.senses.collection_dir or f"{Path(spec.senses.dictionary)}.work")
    collection = work / collection_digest(key)
    return collection, collection / f"parts-{digest_of(key)}"


def forget_work(spec: RunSpec, key: dict[str, Any]) -> None:
    """Delete what a dictionary was made from; of a collection that is kept only the parts."""
    collection, parts = work_folders(spec, key)
    shutil.rmtree(
        collection.parent if spec.senses.collection_dir is None else parts, ignore_errors=True
    )


def with_index(spec: RunSpec) -> dict[str, Any]:
    """Build the index of the dictionary in place, unless it is there with these settings. Returns the dictionary's facts."""
    dictionary = open_dictionary(spec.senses.dictionary, verify=False)
    ensure_index(dictionary, spec.senses, dictionary.held_out().states[:MAX_QUERIES])
    return dictionary.facts


def corpus_blocks(data: DataSpec, tokenizer: Any) -> Any:
    """The blocks to draw from. Raises InputError for a stream: a uniform draw needs the whole corpus."""
    if data.stream:
        raise InputError(
            "[data] stream = true, but senses are collected from blocks drawn over the whole corpus.\n"
            "  build with --set data.stream=false, from a part of the corpus that fits on the disk."
        )
    return train_blocks(data, tokenizer)


def history_entry(spec: RunSpec, corpus: str, num_blocks: int, num_vectors: int) -> dict[str, Any]:
    """What the manifest remembers of a corpus. num_vectors: how many of its vectors are in the senses."""
    return {
        "corpus": corpus,
        "sources": [source.path for source in spec.data.train],
        "tokens": min(spec.senses.collect_tokens, num_blocks * spec.data.block_tokens),
        "vectors": num_vectors,
        "seed": spec.seed,
    }


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
                raise InputError(
                    f'[senses] {self._key} = "{self._folder}", but another process is making it just now.\n'
                    "  wait for it, or name another folder."
                ) from None
        self._comm.barrier()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
