"""Build or refresh a sense dictionary and its index, on all ranks of an MPI launch.

The ranks share the reading of the corpus, then the clustering of the tokens. Rank 0 joins the
parts, relates words and builds the index. The result does not depend on the number of ranks.
Intermediate results are kept in `<dictionary>.work`, or in `[senses] collection_dir`, until the
dictionary is complete, so that a killed build continues. All ranks must see that folder.
`dskd senses build` and `dskd senses refresh` start the ranks.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dskd_ds import __version__
from dskd_ds.errors import InputError
from dskd_ds.files.hashes import file_sha256
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.lexicon.edges import refuse_few_heads
from dskd_ds.lexicon.merge import Relations, relations_of
from dskd_ds.lexicon.relations import TokenRelations, TokenRules, token_relations
from dskd_ds.lexicon.sources import read_lexicon
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.corpora import Collection, Corpora, collect_corpora, open_corpora
from dskd_ds.senses.build.folders import RankZeroLock, forget_work, work_folders
from dskd_ds.senses.build.full_disk import full_disk_as_input_error
from dskd_ds.senses.build.parts import Parts, cluster_parts
from dskd_ds.senses.build.refresh import check_refresh, has_read
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.facts import DictionaryKey, Facts, HistoryEntry
from dskd_ds.senses.dictionary.identity import (
    CLUSTER_SETTINGS,
    COMPUTED,
    dictionary_key,
    word_rules,
)
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.senses.index.graph import ensure_index
from dskd_ds.spec import RunSpec

MAX_QUERIES = 512
"""Held-out states that the recall of the index is measured with."""


def build(
    spec: RunSpec, teacher: NamedModel, comm: Communicator, force: bool = False
) -> Facts | None:
    """Build the dictionary of the spec's [senses], unless it exists. Collective.

    force: build it even if it exists.
    Returns the dictionary's facts on rank 0, None on the other ranks.
    Raises InputError if the dictionary in place was refreshed, which a build would undo.
    """
    corpora = open_corpora(spec, teacher.tokenizer)
    key = dictionary_key(spec, teacher, corpora.blocks, comm, corpora.keys())
    # Rank 0 decides for all: the ranks must take the same branch, because both are collective.
    is_complete = False
    if comm.rank == 0 and not force:
        is_complete = has_key(spec, key)
        if not is_complete:
            refuse_to_forget(spec)
    if comm.broadcast_flag_from_rank_0(is_complete):
        return finish(spec, key, comm)
    facts = cast(Facts, key | {"history": [], "word_rules": word_rules(spec.senses)})
    making = Making(spec=spec, teacher=teacher, corpora=corpora, key=key, facts=facts, comm=comm)
    return making.make()


def refresh(spec: RunSpec, teacher: NamedModel, comm: Communicator) -> Facts | None:
    """Add the spec's corpus to the dictionary in place, unless it was added before. Collective.

    Returns the dictionary's facts on rank 0, None on the other ranks.
    Raises InputError if there is no dictionary, or its states and the corpus's cannot be mixed.
    """
    corpora = open_corpora(spec, teacher.tokenizer)
    key = dictionary_key(spec, teacher, corpora.blocks, comm, corpora.keys())
    old = open_dictionary(spec.senses.dictionary, verify=comm.rank == 0)
    check_refresh(old, key)
    if has_read(old, key["corpus"]):
        return finish(spec, key, comm)
    # The manifest keeps what the first build recorded of its corpus and its collection; this
    # corpus is added to the history. All tokens get the relations of the new spec's lexicons.
    new_settings = {name: key["settings"][name] for name in CLUSTER_SETTINGS}
    settings = old.facts["settings"] | new_settings
    of_words: Facts = {"lexicon": key["lexicon"], "word_rules": word_rules(spec.senses)}
    facts: Facts = old.facts | of_words | {"settings": settings}
    # The parts hold old senses too, so parts made from another old dictionary must not be used.
    old_manifest = file_sha256(old.folder / MANIFEST_FILE)
    work_key: DictionaryKey = key | {"refreshes": old_manifest}
    making = Making(
        spec=spec,
        teacher=teacher,
        corpora=corpora,
        key=work_key,
        facts=facts,
        comm=comm,
        old=old,
    )
    return making.make()


@dataclass(frozen=True)
class Making:
    """The steps from a corpus to a dictionary with its index."""

    spec: RunSpec
    teacher: NamedModel
    corpora: Corpora
    key: DictionaryKey
    facts: Facts
    """Facts for the manifest, to which those of the new senses are added."""
    comm: Communicator
    old: SenseDictionary | None = None
    """The dictionary that is refreshed."""

    def make(self) -> Facts | None:
        """Collect, cluster and write. Collective. Return the new facts on rank 0, else None."""
        spec, comm = self.spec, self.comm
        folders = work_folders(spec, self.key)
        with ExitStack() as locks:
            locks.enter_context(RankZeroLock("dictionary", spec.senses.dictionary, comm))
            if (folder := spec.senses.collection_dir) is not None:
                for name in sorted({collection.name for collection in folders.collections}):
                    locks.enter_context(RankZeroLock("collection_dir", folder, comm, name=name))
            # Read before the long work, so that a wrong path is reported at once.
            related = self._related() if comm.rank == 0 else None
            collected = collect_corpora(self.corpora, self.teacher, folders.collections, comm)
            _refuse_empty(spec, collected)
            with full_disk_as_input_error(folders.parts, "clusters", "collection_dir"):
                cluster_parts(
                    collected,
                    spec=spec,
                    tokenizer=self.teacher.tokenizer,
                    blocks=self.corpora.blocks,
                    folder=folders.parts,
                    comm=comm,
                    old=self.old,
                )
            if related is None:
                comm.barrier()  # rank 0 still reads the parts
                return None
            with full_disk_as_input_error(Path(spec.senses.dictionary), "dictionary", "dictionary"):
                self._write(Parts(folders.parts), related, collected.layout.vocab_size)
            facts = with_index(spec)
            forget_work(spec, self.key)
            comm.barrier()
            return facts

    def _related(self) -> TokenRelations:
        """Return the relations of tokens that the dictionary stores.

        Raises InputError if a lexicon is invalid, or if almost no word is a single token.
        """
        related = token_relations(
            read_lexicons(self.spec),
            tokenizer=self.teacher.tokenizer,
            vocab_size=self.teacher.vocab_size,
            rules=TokenRules.of(self.spec.senses),
        )
        refuse_few_heads(related.edges, self.spec.teacher.model)
        return related

    def _write(self, parts: Parts, related: TokenRelations, vocab_size: int) -> None:
        """Write the dictionary: its senses, held-out states, contexts and facts."""
        # The senses map a file of the work folder. As locals of this method they are released
        # before that folder is deleted.
        spec, old = self.spec, self.old
        with full_disk_as_input_error(parts.folder, "clusters", "collection_dir"):
            senses = parts.senses()
        num_vectors = int(senses.counts.sum())
        num_old_vectors = int(old.sense_counts.sum()) if old else 0
        entry = self._history_entry(num_vectors - num_old_vectors)
        found: Facts = {
            "vocab_size": vocab_size,
            "layer": spec.senses.hidden_layer,
            "num_vectors": num_vectors,
            "made_by": f"dskd-ds {__version__}",
            "history": [*self.facts["history"], entry],
        }
        write_dictionary(
            Path(spec.senses.dictionary),
            senses=senses,
            relations=related,
            facts=self.facts | found,
            num_senses=spec.senses.num_senses,
            contexts=parts.contexts(),
            held_out=parts.held_out(old.held_out() if old else None),
            keep_without_senses=spec.senses.relations_without_senses == "keep",
        )

    def _history_entry(self, num_vectors: int) -> HistoryEntry:
        """Return what the manifest records of this corpus.

        num_vectors: how many of its vectors are in the senses.
        """
        texts = self.corpora.texts
        return {
            "corpus": self.key["corpus"],
            "sources": [path for text in texts for path in text.sources],
            "tokens": sum(text.num_tokens for text in texts),
            "vectors": num_vectors,
            "seed": self.spec.seed,
        }


def has_key(spec: RunSpec, key: DictionaryKey) -> bool:
    """Return whether the dictionary in place is complete and was built with this key.

    One of an earlier version does not say how its teacher computed, and is kept.
    """
    try:
        facts = open_dictionary(spec.senses.dictionary).facts
    except InputError:
        return False
    compared = [name for name in key if name in facts or name not in COMPUTED]
    return all(facts.get(name) == key.get(name) for name in compared)


def refuse_to_forget(spec: RunSpec) -> None:
    """Raise InputError if the dictionary in place was refreshed: a build would lose that text."""
    try:
        history = open_dictionary(spec.senses.dictionary, verify=False).facts["history"]
    except (InputError, KeyError):
        return
    if len(history) > 1:
        raise InputError(
            f'[senses] dictionary = "{spec.senses.dictionary}" was refreshed with'
            f" {len(history) - 1} further corpora, which a build with these settings would lose.\n"
            "  add text with dskd senses refresh, name another folder, or build it again with"
            " --force."
        )


def _refuse_empty(spec: RunSpec, collected: Collection) -> None:
    """Raise InputError if no state was collected."""
    if not collected.buckets:
        raise InputError(
            f"[senses] min_confidence = {spec.senses.min_confidence},"
            " but no prediction of the teacher reaches that probability.\n"
            "  lower it."
        )


def read_lexicons(spec: RunSpec) -> Relations:
    """Return the merged relations of the spec's lexicons. Raises InputError if one is invalid."""
    return relations_of(read_lexicon(spec.senses).merged.table)


def finish(spec: RunSpec, key: DictionaryKey, comm: Communicator) -> Facts | None:
    """Complete a dictionary that was written: build its index, delete the work folders. Collective.

    An earlier launch may have been killed between these steps.
    Returns the dictionary's facts on rank 0, None on the other ranks.
    """
    with RankZeroLock("dictionary", spec.senses.dictionary, comm):
        if comm.rank > 0:
            return None
        facts = with_index(spec)
        forget_work(spec, key)
        return facts


def with_index(spec: RunSpec) -> Facts:
    """Build the index of the dictionary in place, unless it exists with these settings.

    Returns the dictionary's facts.
    """
    dictionary = open_dictionary(spec.senses.dictionary, verify=False)
    with full_disk_as_input_error(dictionary.folder, "index", "dictionary"):
        ensure_index(dictionary, spec.senses, dictionary.held_out().states[:MAX_QUERIES])
    return dictionary.facts
