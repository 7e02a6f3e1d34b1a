"""Attributed vectors as records, and the uniform sample of them: for each token those with the smallest hashes.

The hash is of (seed, document, position), so the sample depends neither on the order of reading nor on how the work was dealt, and
samples of parts merge into the sample of the whole (docs/method.md, "Building the dictionary").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.data.block import Block

QUERY_SHARE = 64
"""One vector in this many is kept out of the senses, to measure dictionary and index with states they have not seen."""

Rows = NDArray[np.void]
"""Records of record_type."""


def record_type(hidden_size: int) -> np.dtype[np.void]:
    """`place`: block number * block_tokens + position; `state`: the bits of bfloat16."""
    return np.dtype(
        [("token", "<i8"), ("hash", "<u8"), ("place", "<i8"), ("state", "<u2", (hidden_size,))]
    )


def make_rows(
    tokens: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    places: NDArray[np.int64],
    states: NDArray[np.uint16],
) -> Rows:
    """Columns -> records."""
    rows = np.empty(len(tokens), record_type(states.shape[1]))
    for name, column in (("token", tokens), ("hash", hashes), ("place", places), ("state", states)):
        rows[name] = column
    return rows


def states_of(rows: Rows) -> Tensor:
    """[M, D] bfloat16."""
    return torch.from_numpy(np.ascontiguousarray(rows["state"]).view(np.int16)).view(torch.bfloat16)


def smallest(rows: Rows, per_token: int) -> Rows:
    """At most `per_token` records for each token, those with the smallest hashes; sorted by token and hash.

    A position that comes twice (a document that is in the corpus twice) counts once, at its first place.
    """
    order = np.lexsort((rows["place"], rows["hash"], rows["token"]))
    tokens, hashes = rows["token"][order], rows["hash"][order]
    first = np.ones(len(order), bool)
    first[1:] = (tokens[1:] != tokens[:-1]) | (hashes[1:] != hashes[:-1])
    order, tokens = order[first], tokens[first]
    rank = np.arange(len(tokens)) - np.searchsorted(tokens, tokens)
    return rows[order[rank < per_token]]


def is_text(row: Block, block_tokens: int, begin: list[int]) -> NDArray[np.bool_]:
    """[T]: which positions of a packed block hold a document's own token.

    Not padding (its segment has digest 0), nor the BOS token `begin` where the tokenizer sets one: its state is the same in every document.
    """
    starts = np.asarray(row["segment_starts"])
    lengths = np.diff(np.append(starts, block_tokens))
    text: NDArray[np.bool_] = np.repeat(np.asarray(row["doc_digests"]) != 0, lengths)
    text[starts[np.isin(np.asarray(row["input_ids"])[starts], begin)]] = False
    return text


def position_hashes(seed: int, row: Block, block_tokens: int) -> NDArray[np.uint64]:
    """[T]: hash of (seed, document digest, position in the document) of each position of a packed block."""
    starts = np.asarray(row["segment_starts"])
    lengths = np.diff(np.append(starts, block_tokens))
    digests = np.repeat(np.asarray(row["doc_digests"], np.int64).view(np.uint64), lengths)
    within = (
        np.arange(block_tokens)
        - np.repeat(starts, lengths)
        + np.repeat(np.asarray(row["doc_offsets"]), lengths)
    )
    hashes: NDArray[np.uint64] = mixed(
        mixed(digests ^ mixed(np.uint64(seed))) ^ within.astype(np.uint64)
    )
    return hashes


def mixed(values: Any) -> Any:
    """splitmix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def is_held_out(rows: Rows) -> NDArray[np.bool_]:
    """Which records only measure, and never become senses; by hash."""
    held_out: NDArray[np.bool_] = rows["hash"] % np.uint64(QUERY_SHARE) == 0
    return held_out
