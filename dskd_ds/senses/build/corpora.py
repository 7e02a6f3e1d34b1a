"""The texts of a dictionary: one ([data] train), or several with a sample each ([[senses.corpus]]).

Each text is collected into a folder of its own, with its own number of tokens to read and its own
maximum of vectors per token. The samples are then joined and clustered together. Neither depends on
the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dskd_ds.data.blocks import train_blocks
from dskd_ds.data.source import open_blocks
from dskd_ds.errors import InputError
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.collect import collect, collection_layout
from dskd_ds.senses.build.spill import Collected, Layout
from dskd_ds.senses.build.vectors import Rows, smallest
from dskd_ds.senses.dictionary.facts import CorpusKey
from dskd_ds.senses.dictionary.identity import corpus_digest
from dskd_ds.spec import RunSpec
from dskd_ds.spec.senses import CorpusSpec


class Collection(Protocol):
    """The vectors that a dictionary is made from, bucket by bucket."""

    @property
    def layout(self) -> Layout:
        """How the sample is divided into buckets."""
        ...

    @property
    def buckets(self) -> list[int]:
        """Buckets with rows, ascending."""
        ...

    def rows(self, bucket: int) -> Rows:
        """Return the sample of a bucket's tokens, sorted by token and hash."""
        ...


@dataclass(frozen=True)
class Corpus:
    """One text of a dictionary."""

    spec: RunSpec
    """The run's spec, with what [senses] says of this text."""
    sources: list[str]
    blocks: Any
    """Its blocks, a `datasets.Dataset`."""
    first_block: int
    """Index of its first block among the blocks of all texts."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens that the teacher reads, at most."""
        block_tokens = self.spec.data.block_tokens
        return min(self.spec.senses.collect_tokens, len(self.blocks) * block_tokens)


@dataclass(frozen=True)
class Corpora:
    """All texts of a dictionary, in the order of the spec."""

    texts: tuple[Corpus, ...]
    blocks: Any
    """The blocks of all texts, one after the other: a `datasets.Dataset`."""
    is_list: bool
    """Whether the spec has [[senses.corpus]]; else the only text is [data] train."""

    def keys(self) -> list[CorpusKey] | None:
        """Return what the sample of each text depends on; None without [[senses.corpus]]."""
        if not self.is_list:
            return None
        return [
            {
                "corpus": corpus_digest(text.blocks),
                "collect_tokens": text.spec.senses.collect_tokens,
                "vectors_per_token": text.spec.senses.vectors_per_token,
            }
            for text in self.texts
        ]


def open_corpora(spec: RunSpec, tokenizer: Any) -> Corpora:
    """Return the texts of a spec's dictionary.

    Raises InputError for a stream: a uniform draw of blocks needs the whole corpus.
    """
    if not spec.senses.corpus:
        blocks = _data_blocks(spec, tokenizer)
        sources = [source.path for source in spec.data.train]
        return Corpora((Corpus(spec, sources, blocks, first_block=0),), blocks, is_list=False)
    import datasets

    texts: list[Corpus] = []
    first_block = 0
    for index, corpus in enumerate(spec.senses.corpus):
        own_spec = _spec_of(spec, corpus)
        with _errors_name(index):
            blocks = train_blocks(own_spec.data, tokenizer)
        texts.append(Corpus(own_spec, [corpus.path], blocks, first_block))
        first_block += len(blocks)
    joined = datasets.concatenate_datasets([text.blocks for text in texts])
    return Corpora(tuple(texts), joined, is_list=True)


def _data_blocks(spec: RunSpec, tokenizer: Any) -> Any:
    """Return the blocks of [data] train. Raises InputError for a stream."""
    if spec.data.stream:
        raise InputError(
            "[data] stream = true,"
            " but senses are collected from blocks drawn over the whole corpus.\n"
            "  build with --set data.stream=false, from a part of the corpus that fits on the disk,"
            " or name texts in [[senses.corpus]]."
        )
    return open_blocks(spec.data, tokenizer)


def _spec_of(spec: RunSpec, corpus: CorpusSpec) -> RunSpec:
    """Return the spec in which a text of [[senses.corpus]] is the only one.

    Documents that [data] keeps for evaluation stay out of it.
    """
    data = {"train": (corpus,), "stream": False}
    if corpus.chat_template is not None:
        data["chat_template"] = corpus.chat_template
    senses = {
        name: value
        for name in ("collect_tokens", "vectors_per_token")
        if (value := getattr(corpus, name)) is not None
    }
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update=data),
            "senses": spec.senses.model_copy(update=senses),
        }
    )


@contextmanager
def _errors_name(index: int) -> Iterator[None]:
    """Let errors name the section of a text, which is read as if it were [data] train."""
    try:
        yield
    except InputError as error:
        section = f"senses.corpus.{index}"
        text = str(error).replace("[data.train.0]", f"[{section}]")
        raise InputError(text.replace("[data] train", f"[{section}]")) from None


def collect_corpora(
    corpora: Corpora, teacher: NamedModel, folders: Sequence[Path], comm: Communicator
) -> Collection:
    """Read what is missing in the collection of every text, and return them joined. Collective.

    folders: one per text. Raises InputError as `collect` does.
    """
    layouts = layouts_of(corpora, teacher)

    @cache
    def load() -> FrozenModel:
        return load_frozen(teacher)

    collections = [
        collect(text.spec, teacher, text.blocks, work=folder, comm=comm, layout=layout, load=load)
        for text, folder, layout in zip(corpora.texts, folders, layouts, strict=True)
    ]
    return joined(corpora, collections)


def open_collection(corpora: Corpora, teacher: NamedModel, folders: Sequence[Path]) -> Collection:
    """Return the collections in some folders as they are, joined. folders: one per text."""
    layouts = layouts_of(corpora, teacher)
    parts = [Collected(folder, layout) for folder, layout in zip(folders, layouts, strict=True)]
    return joined(corpora, parts)


def joined(corpora: Corpora, collections: Sequence[Collected]) -> Collection:
    """Return the collections of all texts as one."""
    if not corpora.is_list:
        return collections[0]
    return JoinedCollection(corpora, collections)


def layouts_of(corpora: Corpora, teacher: NamedModel) -> list[Layout]:
    """Return the layout of each text's collection: all have the same ranges of tokens."""
    maxima = [text.spec.senses.vectors_per_token for text in corpora.texts]
    joint = collection_layout(teacher, sum(maxima))
    if not corpora.is_list:
        return [joint]
    return [
        Layout(
            joint.hidden_size,
            joint.vocab_size,
            per_token=maximum,
            tokens_per_bucket=joint.bucket_tokens,
        )
        for maximum in maxima
    ]


class JoinedCollection:
    """The samples of several texts as one; positions count through the blocks of all texts."""

    def __init__(self, corpora: Corpora, collections: Sequence[Collected]) -> None:
        self._texts, self._collections = corpora.texts, collections
        self._per_token = sum(collection.layout.per_token for collection in collections)

    @property
    def layout(self) -> Layout:
        """See Collection. All texts have the same ranges of tokens."""
        return self._collections[0].layout

    @property
    def buckets(self) -> list[int]:
        """See Collection."""
        return sorted({bucket for part in self._collections for bucket in part.buckets})

    def rows(self, bucket: int) -> Rows:
        """See Collection. A position that is in two texts counts once."""
        parts = []
        for text, collection in zip(self._texts, self._collections, strict=True):
            rows = collection.rows(bucket)
            rows["position"] += text.first_block * text.spec.data.block_tokens
            parts.append(rows)
        return smallest(np.concatenate(parts), self._per_token)
