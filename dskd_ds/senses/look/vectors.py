"""`dskd senses map --vectors`: the teacher's own states of some words and of their synonyms.

A state is a point here, not a sense. If synonyms mean the same to the teacher, their states lie
together. The paper's figure 1 shows such a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.corpora import Collection, open_collection, open_corpora
from dskd_ds.senses.build.folders import work_folders
from dskd_ds.senses.build.vectors import states_of
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.identity import dictionary_key
from dskd_ds.senses.look.forms import Form, forms_of
from dskd_ds.senses.look.map import MAX_WORDS
from dskd_ds.spec import RunSpec

MAX_SYNONYMS = 3
"""Synonyms shown per word: those with the most vectors."""
MAX_VECTORS = 25
"""Vectors shown per word."""

VectorsOf = Callable[[int], Tensor]
"""Owner -> its vectors [N, D]."""


@dataclass(frozen=True)
class WordVectors:
    """The vectors of one word on the map."""

    text: str
    group: int
    """Index of the word that was asked for, of which this is the word itself or a synonym."""
    is_synonym: bool
    vectors: Tensor
    """[N, D] float32"""


def choose_vectors(
    dictionary: SenseDictionary, tokenizer: Any, words: Sequence[str], vectors_of: VectorsOf
) -> list[WordVectors]:
    """Return the vectors of the words and of their synonyms; every owner at most once.

    Raises InputError for a word without senses, and for more words than there are colours.
    """
    if len(words) > MAX_WORDS:
        raise InputError(
            f"{len(words)} words: a map holds at most {MAX_WORDS}.\n  name fewer words."
        )
    forms = [forms_of(dictionary, tokenizer, word)[0] for word in dict.fromkeys(words)]
    # A word that was asked for is not shown again as the synonym of another.
    taken = {form.owner for form in forms}
    chosen: list[WordVectors] = []
    for group, form in enumerate(forms):
        shown = _shown(dictionary, form.owner, vectors_of)
        chosen.append(WordVectors(form.text, group, is_synonym=False, vectors=shown))
        for owner in _synonyms(dictionary, form, taken):
            taken.add(owner)
            name = dictionary.owner_name(owner, tokenizer).strip()
            shown = _shown(dictionary, owner, vectors_of)
            chosen.append(WordVectors(name, group, is_synonym=True, vectors=shown))
    return chosen


def _synonyms(dictionary: SenseDictionary, form: Form, taken: set[int]) -> Iterator[int]:
    """Yield the synonyms of a form that have the most vectors."""
    if form.owner >= dictionary.vocab_size:
        return
    candidates = [int(owner) for owner in dictionary.synonyms.row(form.owner)]
    candidates = [owner for owner in candidates if owner not in taken]
    counts = {
        owner: int(dictionary.sense_counts[dictionary.owner_rows(owner)].sum())
        for owner in candidates
    }
    yield from sorted(candidates, key=lambda owner: (-counts[owner], owner))[:MAX_SYNONYMS]


def _shown(dictionary: SenseDictionary, owner: int, vectors_of: VectorsOf) -> Tensor:
    """Return vectors of a token; of a span, which has none, its senses."""
    if owner >= dictionary.vocab_size:
        return dictionary.senses[dictionary.owner_rows(owner)][:MAX_VECTORS].float()
    return vectors_of(owner)[:MAX_VECTORS].float()


def kept_vectors(spec: RunSpec, teacher: NamedModel) -> VectorsOf:
    """Return what gives the vectors of a token from the collection that a build has kept.

    They are in the order of their hashes, so the first ones are a random sample.
    Raises InputError if [senses] collection_dir does not hold the vectors of this spec.
    """
    corpora = open_corpora(spec, teacher.tokenizer)
    key = dictionary_key(spec, teacher, corpora.blocks, Communicator(), corpora.keys())
    folders = work_folders(spec, key).collections
    if spec.senses.collection_dir is None or not all(folder.is_dir() for folder in folders):
        raise InputError(
            "--vectors: the vectors that the senses were made from are not kept for this spec.\n"
            "  set [senses] collection_dir and build once more (dskd senses build SPEC.toml"
            " --force), name the [teacher] dtype that they were computed in, or leave out --vectors"
            " to draw the senses."
        )
    collection = open_collection(corpora, teacher, folders)

    def vectors_of(token: int) -> Tensor:
        return _vectors_in(collection, token)

    return vectors_of


def _vectors_in(collection: Collection, token: int) -> Tensor:
    """Return the vectors of a token in a collection."""
    bucket = token // collection.layout.bucket_tokens
    if bucket not in collection.buckets:
        return torch.zeros(0, collection.layout.hidden_size)
    rows = collection.rows(bucket)
    return states_of(rows[rows["token"] == token])
