"""How often a target has related words, as the run's dictionary counts it. Loads no torch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import MANIFEST_FILE, parse_manifest
from dskd_ds.senses.dictionary.facts import SENSES_FILE
from dskd_ds.spec import RunSpec

Ints = NDArray[np.int64]
COUNTS = ("owner_offsets", "sense_counts", "synonym_offsets", "antonym_offsets")
"""Tensors of a dictionary that are read: none of them has a row per dimension of a sense."""


def known_related_fraction(spec: RunSpec) -> float | None:
    """Return the share of positions whose target has related words, 0..1.

    It is that of the text from which the dictionary was collected. None if there is no dictionary
    yet. 1 if candidates come from the index alone. Raises InputError if the dictionary cannot be
    read.
    """
    if spec.senses.candidates == "neighbours":
        return 1.0
    manifest = Path(spec.senses.dictionary) / MANIFEST_FILE
    if not spec.uses_senses or not manifest.is_file():
        return None
    return _of_folder(manifest.parent, manifest.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _of_folder(folder: Path, _modified_ns: int) -> float | None:
    """Return the share of a dictionary. A plan asks many times; a new manifest is read again."""
    facts, _ = parse_manifest(folder)
    path = folder / SENSES_FILE
    if "vocab_size" not in facts or not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            offsets, counts, synonyms, antonyms = (file.get_tensor(name) for name in COUNTS)
    except SafetensorError as error:
        raise InputError(
            f"{path}: this is not the file of a dictionary ({error}).\n"
            f"  delete {folder} and build it again."
        ) from None
    return related_share(
        token_counts(offsets[: int(facts["vocab_size"]) + 1], counts),
        has_relations=(np.diff(synonyms) > 0) | (np.diff(antonyms) > 0),
    )


def token_counts(owner_offsets: Ints, sense_counts: Ints) -> Ints:
    """Return how many states of the text were attributed to each token.

    A sense counts the states that it was made from, so a token's states are their sum.
    owner_offsets: [V + 1], the first row of each token. sense_counts: [rows].
    """
    sums = np.concatenate([[0], np.cumsum(sense_counts, dtype=np.int64)])
    counts: Ints = np.diff(sums[owner_offsets])
    return counts


def related_share(counts: Ints, has_relations: NDArray[np.bool_]) -> float:
    """Return the share of all states that are of tokens with related words. Both: [V]."""
    return float(counts[has_relations].sum() / max(counts.sum(), 1))
