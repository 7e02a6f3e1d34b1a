"""What a dictionary is made of, in digests: builds with equal keys are equal, and a refresh knows what has been read already."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from dskd_ds.errors import InputError
from dskd_ds.lexicon.sources import lexicon_digest
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import RunSpec
from dskd_ds.spec.problems import show

COLLECT_SETTINGS = (
    "collect_tokens",
    "attribution",
    "hidden_layer",
    "min_confidence",
    "vectors_per_token",
)
"""The fields of [senses] that a collection depends on."""
CLUSTER_SETTINGS = (
    "clustering",
    "num_senses",
    "min_senses",
    "sense_cost",
    "contexts_per_sense",
    "max_span_tokens",
    "paper_exact",
)
"""Those that decide what is made of it. The index has settings of its own (sense/index.py)."""
BUILD_SETTINGS = (*COLLECT_SETTINGS, *CLUSTER_SETTINGS)


def dictionary_key(
    spec: RunSpec, teacher: NamedModel, blocks: Any, comm: Communicator
) -> dict[str, Any]:
    """Everything a dictionary depends on. All ranks call it.

    Raises InputError if they have different text or teachers (nodes that each have a copy).
    """
    key = {
        "teacher": teacher.fingerprint,
        "tokenizer": teacher.tokenizer_fingerprint,
        "corpus": corpus_digest(blocks),
        "block_tokens": spec.data.block_tokens,
        "seed": spec.seed,
        "lexicon": lexicon_digest(spec.senses),
        "settings": {name: getattr(spec.senses, name) for name in BUILD_SETTINGS},
    }
    if not comm.all_ranks_equal(digest_of(key).encode()):
        raise InputError(
            "[data] train, [teacher] model or [senses] lexicons: what they name is not the same on every rank.\n"
            "  name files on a disk that all nodes share, or copy the same ones to all."
        )
    return key


def corpus_digest(blocks: Any) -> str:
    """16 hex digits: of the tokens of all blocks and of what is a document and a target in them, wherever their files lie.

    It reads all of them, about a second for 250 million tokens.
    """
    digest = hashlib.sha256()
    for name in ("input_ids", "segment_starts", "doc_digests", "unsupervised"):
        for chunk in blocks.data.column(name).chunks:
            values = chunk.flatten()
            digest.update(
                np.ascontiguousarray(values.flatten() if name == "unsupervised" else values).data
            )
    return digest.hexdigest()[:16]


def collection_digest(key: dict[str, Any]) -> str:
    """Of what a collection depends on, out of a dictionary's key: what the teacher reads, not what its states are added to."""
    settings = {name: key["settings"][name] for name in COLLECT_SETTINGS}
    return digest_of(
        {name: value for name, value in key.items() if name not in ("lexicon", "refreshes")}
        | {"settings": settings}
    )


def digest_of(content: dict[str, Any]) -> str:
    """16 hex digits, of anything JSON can say."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def check_settings(dictionary: SenseDictionary, spec: RunSpec) -> None:
    """Refuse to say in a run's spec what is not true of its dictionary. Raises InputError that names the first key that differs."""
    for name, found in dictionary.facts.get("settings", {}).items():
        wanted = getattr(spec.senses, name)
        if found != wanted:
            raise InputError(
                f"[senses] {name} = {show(wanted)}, but {dictionary.folder} was built with {show(found)}.\n"
                f"  build it with this (dskd senses build SPEC.toml), or write {name} = {show(found)}."
            )
