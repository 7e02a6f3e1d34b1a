"""Digests of what a dictionary depends on.

Builds with equal digests give equal dictionaries, and a refresh knows which corpora were read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from dskd_ds.errors import InputError
from dskd_ds.lexicon.sources import RULE_KEYS, lexicon_digest
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.devices import resolve_dtype
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.facts import CorpusKey, DictionaryKey
from dskd_ds.spec import RunSpec
from dskd_ds.spec.lexicons import LexiconSpec
from dskd_ds.spec.problems import show
from dskd_ds.spec.senses import SensesSpec

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
    "min_span_tokens",
    "relations_without_senses",
)
"""The fields of [senses] that decide what is made of a collection. Those of the index are in
senses/index/graph.py."""
COMPUTED = ("dtype", "compiled")
"""The fields of a key that say how the teacher computed its states."""
SHARED_BY_TEXTS = ("teacher", "tokenizer", "block_tokens", "seed", "sinks_left_out", *COMPUTED)
"""The fields of a key that the collection of each of several texts depends on."""
LAST_LAYER = -1
"""`hidden_layer` of the states that the teacher's head reads."""
BUILD_SETTINGS = (*COLLECT_SETTINGS, *CLUSTER_SETTINGS)


def dictionary_key(
    spec: RunSpec,
    teacher: NamedModel,
    blocks: Any,
    comm: Communicator,
    corpora: list[CorpusKey] | None = None,
) -> DictionaryKey:
    """Return everything that a dictionary depends on. Collective.

    blocks: of the corpus, a `datasets.Dataset`. corpora: the texts of [[senses.corpus]] instead.
    Raises InputError if ranks have different text, teachers or lexicons (nodes with own copies), or
    would compute in different number formats.
    """
    key: DictionaryKey = {
        "teacher": teacher.fingerprint,
        "tokenizer": teacher.tokenizer_fingerprint,
        "corpus": digest_of({"corpora": corpora}) if corpora else corpus_digest(blocks),
        "block_tokens": spec.data.block_tokens,
        "seed": spec.seed,
        "lexicon": lexicon_digest(spec.senses),
        "settings": {name: getattr(spec.senses, name) for name in BUILD_SETTINGS},
        "dtype": str(resolve_dtype(teacher.dtype)).removeprefix("torch."),
        "compiled": teacher.compiled,
    }
    if not comm.all_ranks_equal(key["dtype"].encode()):
        raise InputError(
            '[teacher] dtype = "auto" is another number format on another node, and their states'
            " cannot be mixed.\n"
            '  set [teacher] dtype, for example to "bfloat16".'
        )
    if leaves_out_sinks(spec.senses):
        key["sinks_left_out"] = True
    if corpora:
        key["corpora"] = corpora
    if not comm.all_ranks_equal(digest_of(key).encode()):
        raise InputError(
            "[data] train, [teacher] model or [senses] lexicons:"
            " the content differs between the ranks.\n"
            "  name files on a disk that all nodes share, or copy the same files to all nodes."
        )
    return key


def leaves_out_sinks(senses: SensesSpec) -> bool:
    """Return whether no sense is made from attention sinks: below the last layer (sinks.py)."""
    return senses.hidden_layer != LAST_LAYER


def corpus_digest(blocks: Any) -> str:
    """Return 16 hex digits of the tokens, segments, documents and targets of all blocks.

    They do not depend on where the files are. All blocks are read: about a second for 250 million
    tokens. blocks: a `datasets.Dataset`.
    """
    digest = hashlib.sha256()
    for name in ("input_ids", "segment_starts", "doc_digests", "unsupervised"):
        for chunk in blocks.data.column(name).chunks:
            values = chunk.flatten()
            if name == "unsupervised":  # lists of lists
                values = values.flatten()
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


def collection_digest(key: DictionaryKey) -> str:
    """Return 16 hex digits of the part of a dictionary's key that its collection depends on.

    A collection does not depend on the lexicons, nor on the dictionary that is refreshed with it.
    """
    settings = {name: key["settings"][name] for name in COLLECT_SETTINGS}
    kept = {name: value for name, value in key.items() if name not in ("lexicon", "refreshes")}
    return digest_of(kept | {"settings": settings})


def collection_digests(key: DictionaryKey) -> list[str]:
    """Return 16 hex digits per text of a dictionary: what its collection depends on.

    A collection of [[senses.corpus]] depends on the other texts only through the sum of their
    vectors per token, which decides how tokens are divided into ranges.
    """
    if "corpora" not in key:
        return [collection_digest(key)]
    num_vectors = sum(text["vectors_per_token"] for text in key["corpora"])
    digests = []
    for text in key["corpora"]:
        settings = {name: key["settings"][name] for name in COLLECT_SETTINGS} | text
        shared = {name: value for name, value in key.items() if name in SHARED_BY_TEXTS}
        digests.append(digest_of(shared | {"settings": settings, "sum_per_token": num_vectors}))
    return digests


def digest_of(content: Mapping[str, object]) -> str:
    """Return 16 hex digits of the content as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def word_rules(senses: SensesSpec) -> dict[str, Any]:
    """Return what decides which words are related, in JSON's types: a manifest records it.

    Of the lexicons it has what they are and how they are read, but neither path nor content: they
    may lie elsewhere, and every start of a run would have to read them.
    """
    rules: dict[str, Any] = {name: getattr(senses, name) for name in RULE_KEYS}
    rules["negating_affixes"] = list(senses.negating_affixes)
    rules["lexicons"] = [_described(lexicon) for lexicon in senses.lexicons]
    if senses.morpholex is not None:
        rules["lexicons"].append("morpholex")
    return rules


def _described(lexicon: LexiconSpec) -> str:
    """Return the kind and the language of a lexicon, and what else decides how it is read."""
    parts = [lexicon.kind, lexicon.language]
    if lexicon.lists != "all":
        parts.append(lexicon.lists)
    parts += [name for name in ("synonyms", "antonyms") if getattr(lexicon, name) is not None]
    return " ".join(parts)


def check_settings(dictionary: SenseDictionary, spec: RunSpec) -> None:
    """Check that the spec has the settings that the dictionary was built with.

    It reads no lexicon. What the manifest of an earlier version lacks is not checked.
    Raises InputError that names the first setting that differs.
    """
    facts = dictionary.facts
    for name, found in facts.get("settings", {}).items():
        if found != getattr(spec.senses, name):
            raise _other_setting(dictionary, name, getattr(spec.senses, name), found)
    recorded, wanted = facts.get("word_rules", {}), word_rules(spec.senses)
    for name in RULE_KEYS:
        if name in recorded and recorded[name] != wanted[name]:
            raise _other_setting(dictionary, name, wanted[name], recorded[name])
    lexicons, wanted_lexicons = recorded.get("lexicons"), wanted["lexicons"]
    if lexicons is None or lexicons == wanted_lexicons:
        return
    # A table stands for the lexicons that it was merged from.
    if not any(name.startswith("table ") for name in [*lexicons, *wanted_lexicons]):
        raise InputError(
            f"[senses] lexicons are {_listed(wanted_lexicons)},"
            f" but {dictionary.folder} was built with {_listed(lexicons)}.\n"
            "  build it with the new ones (dskd senses build SPEC.toml),"
            " or name those in [[senses.lexicons]] and morpholex."
        )


def _listed(lexicons: list[str]) -> str:
    return ", ".join(lexicons) or "none"


def _other_setting(
    dictionary: SenseDictionary, name: str, wanted: object, found: object
) -> InputError:
    """Return the error for a dictionary that was built with another value of [senses] `name`."""
    return InputError(
        f"[senses] {name} = {show(wanted)},"
        f" but {dictionary.folder} was built with {show(found)}.\n"
        "  build it with the new value (dskd senses build SPEC.toml),"
        f" or write {name} = {show(found)}."
    )
