"""The sense dictionary on disk: one memory-mapped safetensors file with CSR offsets, and a manifest that says what it is of.

Owners are tokens (below `vocab_size`) and spans (from there on). Rows of `senses` are sorted by owner, so an owner's senses are
`owner_offsets[o]:owner_offsets[o + 1]`; every process of a node that opens the file shares its pages. Beside it lie contexts.parquet
(text snippets of each sense) and heldout.safetensors (some teacher states that no sense was made from, to measure with).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import partial_folder, replace_folder
from dskd_ds.files.manifest import read_manifest, write_manifest
from dskd_ds.lexicon.relations import Ragged, TokenRelations
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.dictionary.contexts import CONTEXTS_FILE, Context, read_contexts, write_contexts
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.spans import compose_spans, span_lengths
from dskd_ds.senses.dictionary.tensors import TensorFile

FORMAT = 2
SENSES_FILE = "senses.safetensors"
HELDOUT_FILE = "heldout.safetensors"
MEDIAN_PAIRS = 20_000
"""Pairs of antonyms' senses whose median distance is recorded."""
AT_ONCE = 16_384
"""Rows, and spans, that are in memory at a time while a dictionary is written."""


@dataclass(frozen=True)
class HeldOut:
    """States kept out of the senses, to measure a dictionary and its index with; a uniform sample, in order of its hashes."""

    tokens: Tensor
    """[Q] int64, the token each is attributed to."""
    hashes: Tensor
    """[Q] uint64"""
    states: Tensor
    """[Q, D] bfloat16"""


@dataclass(frozen=True)
class SenseDictionary:
    """An open dictionary."""

    folder: Path
    facts: dict[str, Any]
    """The manifest: fingerprints of teacher, tokenizer and corpus, layer, settings, counts, `median_antonym_distance`, history."""
    senses: Tensor
    """[S, D] bfloat16, mapped from disk."""
    squared_norms: Tensor
    """[S] float32"""
    owner_offsets: np.ndarray[Any, np.dtype[np.int64]]
    """[owners + 1]"""
    row_owners: np.ndarray[Any, np.dtype[np.int64]]
    """[S] owner of each row."""
    sense_counts: np.ndarray[Any, np.dtype[np.int64]]
    """[S] vectors each sense was made from; 0 for spans."""
    sense_spread: Tensor
    """[S] float32, mean squared distance per dimension of those vectors from their sense; 0 for spans."""
    synonyms: Ragged
    """Owners, by token."""
    antonyms: Ragged
    spans: Ragged
    """Tokens of each span; span i is the owner vocab_size + i."""

    @property
    def vocab_size(self) -> int:
        """Tokens; owners from here on are spans."""
        return int(self.facts["vocab_size"])

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.senses.shape[1])

    @property
    def num_token_rows(self) -> int:
        """Rows that belong to tokens; the rest belongs to spans."""
        return int(self.owner_offsets[self.vocab_size])

    @property
    def layer(self) -> int:
        """The teacher's layer whose states it is made of; -1: what its head reads."""
        return int(self.facts["layer"])

    def owner_name(self, owner: int, tokenizer: Any) -> str:
        """The text of a token or span as it is written, leading space included."""
        tokens = (
            [owner] if owner < self.vocab_size else self.spans.row(owner - self.vocab_size).tolist()
        )
        name: str = tokenizer.decode(tokens)
        return name

    def contexts(self, row: int) -> list[Context]:
        """Where the states nearest to a sense were found, nearest first. Read from disk at each call."""
        return self.contexts_of([row])[row]

    def contexts_of(self, rows: Iterable[int]) -> dict[int, list[Context]]:
        """The contexts of several rows, read at once."""
        return read_contexts(self.folder / CONTEXTS_FILE, rows)

    def held_out(self) -> HeldOut:
        """Teacher states that no sense was made from; read from disk at each call."""
        return HeldOut(**load_file(self.folder / HELDOUT_FILE))


def write_dictionary(
    folder: Path,
    senses: Senses,
    relations: TokenRelations,
    facts: dict[str, Any],
    num_senses: int,
    contexts: Iterable[pa.Table] = (),
    held_out: HeldOut | None = None,
) -> None:
    """Write a dictionary, whole or not at all, without holding its rows in memory.

    senses: of all tokens; may be mapped. facts: at least vocab_size and layer; counts and distances are added here.
    num_senses: at most this many senses of a span. contexts: tables as contexts.py makes them, in order of the rows.
    """
    partial = partial_folder(folder)
    vocab_size = int(facts["vocab_size"])
    token_lengths = np.bincount(senses.owners, minlength=vocab_size)
    lengths = np.concatenate(
        [token_lengths, span_lengths(relations.spans, token_lengths, num_senses)]
    )
    small = _small_tensors(senses, relations, lengths, vocab_size)
    num_rows = int(lengths.sum())
    file = TensorFile(
        partial / SENSES_FILE,
        {
            "senses": (torch.bfloat16, (num_rows, senses.centroids.shape[1])),
            "squared_norms": (torch.float32, (num_rows,)),
            **{name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in small.items()},
        },
    )
    for name, tensor in small.items():
        file[name].copy_(tensor)
    for start, rows in _all_rows(senses, relations.spans, num_senses):
        file["senses"][start : start + len(rows)] = rows.to(torch.bfloat16)
        file["squared_norms"][start : start + len(rows)] = (
            file["senses"][start : start + len(rows)].float().square().sum(dim=1)
        )
    antonyms = Ragged(small["antonym_offsets"].numpy(), small["antonym_values"].numpy())
    related = (small["synonym_offsets"].diff() > 0) | (small["antonym_offsets"].diff() > 0)
    facts = facts | {
        "format": FORMAT,
        "num_rows": num_rows,
        "num_spans": int((lengths[vocab_size:] > 0).sum()),
        "num_tokens": int((token_lengths > 0).sum()),
        "num_related_tokens": int(related.sum()),
        "median_antonym_distance": _median_antonym_distance(
            file["senses"], small["owner_offsets"].numpy(), antonyms, vocab_size
        ),
    }
    file.close()
    write_contexts(partial / CONTEXTS_FILE, contexts)
    save_file(
        vars(
            held_out
            or HeldOut(
                torch.zeros(0, dtype=torch.int64),
                torch.zeros(0, dtype=torch.uint64),
                torch.zeros(0, senses.centroids.shape[1], dtype=torch.bfloat16),
            )
        ),
        partial / HELDOUT_FILE,
    )
    write_manifest(partial, facts)
    replace_folder(partial, folder)


def _small_tensors(
    senses: Senses, relations: TokenRelations, lengths: np.ndarray[Any, Any], vocab_size: int
) -> dict[str, Tensor]:
    """Everything of a dictionary but its rows and their norms."""
    synonyms, antonyms = (
        Ragged.from_dict(_with_senses(table, lengths), vocab_size)
        for table in (relations.synonyms, relations.antonyms)
    )
    spans = Ragged.from_dict(dict(enumerate(map(list, relations.spans))), len(relations.spans))
    num_span_rows = int(lengths[vocab_size:].sum())
    spreads = np.zeros(len(senses.owners), np.float32) if senses.spreads is None else senses.spreads
    return {
        "owner_offsets": torch.from_numpy(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ),
        "sense_counts": torch.from_numpy(
            np.concatenate([senses.counts, np.zeros(num_span_rows, np.int64)])
        ),
        "sense_spread": torch.from_numpy(
            np.concatenate([spreads, np.zeros(num_span_rows, np.float32)])
        ),
        **{
            f"{name}_{part}": torch.from_numpy(getattr(table, part))
            for name, table in (("synonym", synonyms), ("antonym", antonyms))
            for part in ("offsets", "values")
        },
        "span_offsets": torch.from_numpy(spans.offsets),
        "span_tokens": torch.from_numpy(spans.values),
    }


def _all_rows(
    senses: Senses, spans: list[tuple[int, ...]], num_senses: int
) -> Iterator[tuple[int, Tensor]]:
    """All rows in order, in parts: number of the first, rows [n, D]."""
    start = 0
    for part in senses.centroids.split(AT_ONCE):
        yield start, part
        start += len(part)
    for first in range(0, len(spans), AT_ONCE):
        rows, _ = compose_spans(spans[first : first + AT_ONCE], senses, num_senses)
        yield start, rows
        start += len(rows)


def _with_senses(
    table: dict[int, list[int]], lengths: np.ndarray[Any, Any]
) -> dict[int, list[int]]:
    """Only owners that have senses: no others can pull or push."""
    return {
        token: kept
        for token, owners in table.items()
        if (kept := [o for o in owners if lengths[o]])
    }


def _median_antonym_distance(
    rows: Tensor, offsets: np.ndarray[Any, Any], antonyms: Ragged, vocab_size: int
) -> float | None:
    """Median squared distance per dimension between senses of antonyms, over pairs drawn evenly; None if there are none."""
    tokens = np.repeat(np.arange(vocab_size), antonyms.lengths())
    lengths = np.diff(offsets)
    usable = (lengths[tokens] > 0) & (lengths[antonyms.values] > 0)
    tokens, others = tokens[usable], antonyms.values[usable]
    if not len(tokens):
        return None
    generator = np.random.default_rng(0)
    pairs = generator.integers(0, len(tokens), MEDIAN_PAIRS)
    left, right = (
        offsets[o[pairs]] + generator.integers(0, lengths[o[pairs]]) for o in (tokens, others)
    )
    gaps = rows[torch.from_numpy(left)].float() - rows[torch.from_numpy(right)].float()
    return float(gaps.square().mean(dim=1).median())


def open_dictionary(folder: str | Path, verify: bool = True) -> SenseDictionary:
    """Map a dictionary. verify: compare its files' digests first (once a node is enough).

    Raises InputError if it is missing, truncated, altered or of another format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f'[senses] dictionary = "{folder}", but there is no such folder.\n  build it: dskd senses build SPEC.toml'
        )
    facts = read_manifest(folder, verify)
    if facts.get("format") != FORMAT:
        raise InputError(
            f"{folder}: its format is {facts.get('format')}, this version reads {FORMAT}.\n"
            "  build it again: dskd senses build SPEC.toml"
        )
    try:
        with safe_open(
            folder / SENSES_FILE, framework="pt"
        ) as file:  # maps: a tensor is a view of shared pages
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(
            f"{folder / SENSES_FILE}: this is no safetensors file ({error}).\n  delete {folder} and make it again."
        ) from None
    numpy = {
        name: tensor.numpy() for name, tensor in tensors.items() if tensor.dtype == torch.int64
    }
    offsets = numpy["owner_offsets"]
    return SenseDictionary(
        folder,
        facts,
        tensors["senses"],
        tensors["squared_norms"],
        offsets,
        np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)),
        numpy["sense_counts"],
        tensors["sense_spread"],
        Ragged(numpy["synonym_offsets"], numpy["synonym_values"]),
        Ragged(numpy["antonym_offsets"], numpy["antonym_values"]),
        Ragged(numpy["span_offsets"], numpy["span_tokens"]),
    )


def check_belongs(dictionary: SenseDictionary, teacher: str, tokenizer: str) -> None:
    """Refuse a dictionary made from another teacher or for another tokenizer (fingerprints). Raises InputError."""
    for what, expected in (("teacher", teacher), ("tokenizer", tokenizer)):
        found = dictionary.facts.get(what)
        if found != expected:
            raise InputError(
                f"{dictionary.folder}: it was built with the {what} {found}, but this run's is {expected}.\n"
                "  build one for this teacher (dskd senses build SPEC.toml), or name another [senses] dictionary."
            )


def open_own(folder: str | Path, teacher: NamedModel, verify: bool = True) -> SenseDictionary:
    """Open a dictionary of this teacher. Raises InputError if it cannot be opened or is of another teacher."""
    teacher.locate()
    dictionary = open_dictionary(folder, verify)
    check_belongs(dictionary, teacher.fingerprint, teacher.tokenizer_fingerprint)
    return dictionary
