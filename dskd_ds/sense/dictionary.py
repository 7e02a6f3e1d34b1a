"""The sense dictionary on disk: one memory-mapped safetensors file with CSR offsets, and a manifest that says what it is of.

Owners are tokens (below `vocab_size`) and spans (from there on). Rows of `senses` are sorted by owner, so an owner's senses are
`owner_offsets[o]:owner_offsets[o + 1]`; every process of a node that opens the file shares its pages.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.manifest import read_manifest, write_manifest
from dskd_ds.sense.cluster import Senses
from dskd_ds.sense.relations import Ragged, TokenRelations

FORMAT = 1
SENSES_FILE = "senses.safetensors"
MEDIAN_PAIRS = 20_000
"""Pairs of antonyms' senses whose median distance is recorded."""


@dataclass(frozen=True)
class SenseDictionary:
    """An open dictionary."""

    folder: Path
    facts: dict[str, Any]
    """The manifest: fingerprints of teacher, tokenizer and corpus, settings, counts, `median_antonym_distance`."""
    senses: Tensor
    """[S, D] bfloat16, mapped from disk."""
    squared_norms: Tensor
    """[S] float32"""
    owner_offsets: np.ndarray[Any, np.dtype[np.int64]]
    """[owners + 1]"""
    row_owners: np.ndarray[Any, np.dtype[np.int64]]
    """[S] owner of each row."""
    synonyms: Ragged
    """Owners, by token."""
    antonyms: Ragged

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


def compose_spans(spans: list[tuple[int, ...]], senses: Senses, num_senses: int) -> tuple[Tensor, list[int]]:
    """Senses of spans: each sense of the first token, averaged with the nearest sense of every further token (METHOD.md, 4).

    Returns rows [R, D] float32 and how many each span got: 0 where one of its tokens has no senses.
    """
    owners, starts, counts = np.unique(senses.owners, return_index=True, return_counts=True)
    where = {int(o): slice(int(s), int(s + n)) for o, s, n in zip(owners, starts, counts, strict=True)}
    rows: list[Tensor] = []
    lengths = []
    for span in spans:
        if any(token not in where for token in span):
            lengths.append(0)
            continue
        mean = senses.centroids[where[span[0]]][:num_senses]
        for used, token in enumerate(span[1:], start=1):
            candidates = senses.centroids[where[token]]
            nearest = candidates[torch.cdist(mean, candidates).argmin(dim=1)]
            mean = (mean * used + nearest) / (used + 1)
        rows.append(mean)
        lengths.append(len(mean))
    return (torch.cat(rows) if rows else senses.centroids[:0]), lengths


def write_dictionary(folder: Path, senses: Senses, relations: TokenRelations, facts: dict[str, Any], num_senses: int) -> None:
    """Write a dictionary, whole or not at all. facts: at least vocab_size; counts and distances are added here."""
    vocab_size = int(facts["vocab_size"])
    span_rows, span_lengths = compose_spans(relations.spans, senses, num_senses)
    lengths = np.concatenate([np.bincount(senses.owners, minlength=vocab_size), np.asarray(span_lengths, np.int64)])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = torch.cat([senses.centroids, span_rows]).to(torch.bfloat16)
    synonyms, antonyms = (Ragged.from_dict(_with_senses(table, lengths), vocab_size) for table in (relations.synonyms, relations.antonyms))
    facts = facts | {
        "format": FORMAT, "num_rows": len(rows), "num_spans": int(sum(n > 0 for n in span_lengths)),
        "num_tokens": int((lengths[:vocab_size] > 0).sum()),
        "num_related_tokens": int(((synonyms.lengths() > 0) | (antonyms.lengths() > 0)).sum()),
        "median_antonym_distance": _median_antonym_distance(rows, offsets, antonyms, vocab_size),
    }
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({
        "senses": rows, "squared_norms": rows.float().square().sum(dim=1), "owner_offsets": torch.from_numpy(offsets),
        "sense_counts": torch.cat([torch.from_numpy(senses.counts), torch.zeros(len(span_rows), dtype=torch.int64)]),
        **{f"{name}_{part}": torch.from_numpy(getattr(table, part))
           for name, table in (("synonym", synonyms), ("antonym", antonyms)) for part in ("offsets", "values")},
    }, partial / SENSES_FILE)
    write_manifest(partial, facts)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _with_senses(table: dict[int, list[int]], lengths: np.ndarray[Any, Any]) -> dict[int, list[int]]:
    """Only owners that have senses: no others can pull or push."""
    return {token: kept for token, owners in table.items() if (kept := [o for o in owners if lengths[o]])}


def _median_antonym_distance(rows: Tensor, offsets: np.ndarray[Any, Any], antonyms: Ragged, vocab_size: int) -> float | None:
    """Median squared distance per dimension between senses of antonyms, over pairs drawn evenly; None if there are none."""
    tokens = np.repeat(np.arange(vocab_size), antonyms.lengths())
    lengths = np.diff(offsets)
    usable = (lengths[tokens] > 0) & (lengths[antonyms.values] > 0)
    tokens, others = tokens[usable], antonyms.values[usable]
    if not len(tokens):
        return None
    generator = np.random.default_rng(0)
    pairs = generator.integers(0, len(tokens), MEDIAN_PAIRS)
    left, right = (offsets[o[pairs]] + generator.integers(0, lengths[o[pairs]]) for o in (tokens, others))
    gaps = rows[torch.from_numpy(left)].float() - rows[torch.from_numpy(right)].float()
    return float(gaps.square().mean(dim=1).median())


def open_dictionary(folder: str | Path, verify: bool = True) -> SenseDictionary:
    """Map a dictionary. verify: compare its files' digests first (once a node is enough).

    Raises InputError if it is missing, truncated, altered or of another format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f'[senses] dictionary = "{folder}", but there is no such folder.\n  build it: dskd senses build SPEC.toml')
    facts = read_manifest(folder, verify)
    if facts.get("format") != FORMAT:
        raise InputError(f"{folder}: its format is {facts.get('format')}, this version reads {FORMAT}.\n"
                         "  build it again: dskd senses build SPEC.toml")
    with safe_open(folder / SENSES_FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    numpy = {name: tensor.numpy() for name, tensor in tensors.items() if tensor.dtype == torch.int64}
    offsets = numpy["owner_offsets"]
    return SenseDictionary(
        folder, facts, tensors["senses"], tensors["squared_norms"], offsets,
        np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)),
        Ragged(numpy["synonym_offsets"], numpy["synonym_values"]), Ragged(numpy["antonym_offsets"], numpy["antonym_values"]))


def sense_counts(dictionary: SenseDictionary) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[S] how many collected vectors each sense stands for; 0 for spans."""
    with safe_open(dictionary.folder / SENSES_FILE, framework="pt") as file:
        counts: np.ndarray[Any, np.dtype[np.int64]] = file.get_tensor("sense_counts").numpy()
    return counts


def check_belongs(dictionary: SenseDictionary, teacher: str, tokenizer: str) -> None:
    """Refuse a dictionary made from another teacher or for another tokenizer (fingerprints). Raises InputError."""
    for what, expected in (("teacher", teacher), ("tokenizer", tokenizer)):
        found = dictionary.facts.get(what)
        if found != expected:
            raise InputError(f"{dictionary.folder}: it was built with the {what} {found}, but this run's is {expected}.\n"
                             "  build one for this teacher (dskd senses build SPEC.toml), or name another [senses] dictionary.")
