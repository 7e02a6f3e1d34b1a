"""Writes a sense dictionary without holding its rows in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from dskd_ds.files.atomic import atomic_folder
from dskd_ds.files.manifest import write_manifest
from dskd_ds.lexicon.relations import Ragged, TokenRelations
from dskd_ds.senses.dictionary.contexts import CONTEXTS_FILE, write_contexts
from dskd_ds.senses.dictionary.dictionary import FORMAT, HELDOUT_FILE, HeldOut
from dskd_ds.senses.dictionary.facts import SENSES_FILE, Facts
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.spans import compose_spans, span_lengths
from dskd_ds.senses.dictionary.tensors import TensorFile

MEDIAN_PAIRS = 20_000
"""Pairs of antonyms' senses that are drawn for the median distance."""
CHUNK_ROWS = 16_384
"""Rows, and spans, that are in memory at a time while a dictionary is written."""

Ints = NDArray[np.int64]


def write_dictionary(
    folder: Path,
    senses: Senses,
    relations: TokenRelations,
    facts: Facts,
    num_senses: int,
    contexts: Iterable[pa.Table] = (),
    held_out: HeldOut | None = None,
    keep_without_senses: bool = False,
) -> None:
    """Write a dictionary, whole or not at all, without holding its rows in memory.

    senses: of all tokens; may be mapped from disk.
    facts: at least vocab_size and layer; counts and distances are added here.
    num_senses: a span gets at most this many senses.
    contexts: tables made by contexts.contexts_table, in order of the rows.
    keep_without_senses: keep relations to owners without senses.
    """
    vocab_size = facts["vocab_size"]
    # The file is created with its full size, so all lengths are needed before a span is composed.
    token_lengths = np.bincount(senses.owners, minlength=vocab_size)
    composed_lengths = span_lengths(relations.spans, token_lengths, num_senses)
    lengths = np.concatenate([token_lengths, composed_lengths])
    if not keep_without_senses:
        relations = replace(
            relations,
            synonyms=_with_senses(relations.synonyms, lengths),
            antonyms=_with_senses(relations.antonyms, lengths),
        )
    small = _small_tensors(senses, relations, lengths=lengths, vocab_size=vocab_size)
    with atomic_folder(folder) as partial:
        distance = _write_senses(
            partial / SENSES_FILE,
            senses=senses,
            spans=relations.spans,
            num_senses=num_senses,
            small=small,
            vocab_size=vocab_size,
        )
        write_contexts(partial / CONTEXTS_FILE, contexts)
        stored = held_out or _no_held_out(senses.centroids.shape[1])
        save_file(vars(stored), partial / HELDOUT_FILE)
        related = (small["synonym_offsets"].diff() > 0) | (small["antonym_offsets"].diff() > 0)
        found: Facts = {
            "format": FORMAT,
            "num_rows": int(lengths.sum()),
            "num_spans": int((lengths[vocab_size:] > 0).sum()),
            "num_tokens": int((token_lengths > 0).sum()),
            "num_related_tokens": int(related.sum()),
            "median_antonym_distance": distance,
        }
        write_manifest(partial, cast(dict[str, Any], facts | found))


def _write_senses(
    path: Path,
    senses: Senses,
    spans: list[tuple[int, ...]],
    num_senses: int,
    small: dict[str, Tensor],
    vocab_size: int,
) -> float | None:
    """Write the safetensors file. Return the median distance between the senses of antonyms.

    small: the result of _small_tensors.
    """
    num_rows = int(small["owner_offsets"][-1])
    shapes = {
        "senses": (torch.bfloat16, (num_rows, senses.centroids.shape[1])),
        "squared_norms": (torch.float32, (num_rows,)),
    }
    shapes |= {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in small.items()}
    file = TensorFile(path, shapes)
    for name, tensor in small.items():
        file[name].copy_(tensor)
    for start, rows in _all_rows(senses, spans, num_senses):
        chunk = slice(start, start + len(rows))
        file["senses"][chunk] = rows.to(torch.bfloat16)
        # Norms are of the rounded rows, because distances are computed from those.
        file["squared_norms"][chunk] = file["senses"][chunk].float().square().sum(dim=1)
    distance = _median_antonym_distance(
        file["senses"],
        offsets=small["owner_offsets"].numpy(),
        antonyms=Ragged(small["antonym_offsets"].numpy(), small["antonym_values"].numpy()),
        vocab_size=vocab_size,
    )
    file.close()
    return distance


def _no_held_out(hidden_size: int) -> HeldOut:
    """Return an empty sample of held-out states."""
    return HeldOut(
        tokens=torch.zeros(0, dtype=torch.int64),
        hashes=torch.zeros(0, dtype=torch.uint64),
        states=torch.zeros(0, hidden_size, dtype=torch.bfloat16),
    )


def _small_tensors(
    senses: Senses, relations: TokenRelations, lengths: Ints, vocab_size: int
) -> dict[str, Tensor]:
    """Return all tensors of a dictionary except its rows and their norms.

    lengths: [owners] number of senses of each token and span.
    """
    spans = Ragged.from_dict(dict(enumerate(map(list, relations.spans))), len(relations.spans))
    synonyms = Ragged.from_dict(relations.synonyms, vocab_size)
    antonyms = Ragged.from_dict(relations.antonyms, vocab_size)
    # Senses of spans are composed of other senses: they have no vectors, hence no spread.
    num_span_rows = int(lengths[vocab_size:].sum())
    spreads = senses.spreads
    if spreads is None:
        spreads = np.zeros(len(senses.owners), np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    counts = np.concatenate([senses.counts, np.zeros(num_span_rows, np.int64)])
    spreads = np.concatenate([spreads, np.zeros(num_span_rows, np.float32)])
    arrays: dict[str, NDArray[Any]] = {
        "owner_offsets": offsets,
        "sense_counts": counts,
        "sense_spread": spreads,
        "synonym_offsets": synonyms.offsets,
        "synonym_values": synonyms.values,
        "antonym_offsets": antonyms.offsets,
        "antonym_values": antonyms.values,
        "span_offsets": spans.offsets,
        "span_tokens": spans.values,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _all_rows(
    senses: Senses, spans: list[tuple[int, ...]], num_senses: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield all rows in order, in chunks: the index of the first row, and rows [n, D]."""
    start = 0
    for chunk in senses.centroids.split(CHUNK_ROWS):
        yield start, chunk
        start += len(chunk)
    for first in range(0, len(spans), CHUNK_ROWS):
        rows, _ = compose_spans(spans[first : first + CHUNK_ROWS], senses, num_senses)
        yield start, rows
        start += len(rows)


def _with_senses(table: dict[int, list[int]], lengths: Ints) -> dict[int, list[int]]:
    """Return the relations to owners that have senses. The others can neither pull nor push."""
    kept = {token: [o for o in owners if lengths[o]] for token, owners in table.items()}
    return {token: owners for token, owners in kept.items() if owners}


def _median_antonym_distance(
    rows: Tensor, offsets: Ints, antonyms: Ragged, vocab_size: int
) -> float | None:
    """Return the median squared distance per dimension between senses of antonyms.

    The median is over MEDIAN_PAIRS pairs of senses, drawn uniformly over pairs of antonyms.
    Returns None if no two antonyms have senses.
    """
    tokens = np.repeat(np.arange(vocab_size), antonyms.lengths())
    lengths = np.diff(offsets)
    usable = (lengths[tokens] > 0) & (lengths[antonyms.values] > 0)
    tokens, others = tokens[usable], antonyms.values[usable]
    if not len(tokens):
        return None
    # The order of the draws is part of the result.
    generator = np.random.default_rng(0)
    pairs = generator.integers(0, len(tokens), MEDIAN_PAIRS)
    left = _random_rows(tokens[pairs], offsets, generator)
    right = _random_rows(others[pairs], offsets, generator)
    gaps = rows[torch.from_numpy(left)].float() - rows[torch.from_numpy(right)].float()
    return float(gaps.square().mean(dim=1).median())


def _random_rows(owners: Ints, offsets: Ints, generator: np.random.Generator) -> Ints:
    """Return one row of each owner, drawn uniformly among the owner's senses."""
    rows: Ints = offsets[owners] + generator.integers(0, np.diff(offsets)[owners])
    return rows
