"""Collected vectors as records, and the uniform sample of them that a dictionary is made from.

The sample has, for each token, the vectors with the smallest hashes. The hash is of (seed,
document, position in the document), so the sample depends neither on the order of reading nor on
how the work was divided, and the samples of parts can be merged into the sample of the whole.
Source: docs/method.md, "Building the dictionary".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.data.block import Block

QUERY_SHARE = 64
"""One vector in this many is kept out of the senses, to measure dictionary and index with it."""

Rows = NDArray[np.void]
"""Records of record_type."""


def record_type(hidden_size: int) -> np.dtype[np.void]:
    """Return the type of a record.

    `position`: block index * block_tokens + offset in the block. `state`: the bits of bfloat16.
    """
    return np.dtype(
        [("token", "<i8"), ("hash", "<u8"), ("position", "<i8"), ("state", "<u2", (hidden_size,))]
    )


def make_rows(
    tokens: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    positions: NDArray[np.int64],
    states: NDArray[np.uint16],
) -> Rows:
    """Return columns [M] and states [M, D] as records."""
    rows = np.empty(len(tokens), record_type(states.shape[1]))
    rows["token"] = tokens
    rows["hash"] = hashes
    rows["position"] = positions
    rows["state"] = states
    return rows


def states_of(rows: Rows) -> Tensor:
    """Return the states of records, [M, D] bfloat16."""
    bits = np.ascontiguousarray(rows["state"]).view(np.int16)
    return torch.from_numpy(bits).view(torch.bfloat16)


def smallest(rows: Rows, per_token: int) -> Rows:
    """Return at most `per_token` records per token, those with the smallest hashes.

    They are sorted by token and hash. A position that occurs twice (because its document is in the
    corpus twice) counts once, as the record with the smallest corpus position.
    """
    order = np.lexsort((rows["position"], rows["hash"], rows["token"]))
    tokens, hashes = rows["token"][order], rows["hash"][order]
    first = np.ones(len(order), bool)
    first[1:] = (tokens[1:] != tokens[:-1]) | (hashes[1:] != hashes[:-1])
    order, tokens = order[first], tokens[first]
    rank = np.arange(len(tokens)) - np.searchsorted(tokens, tokens)
    return rows[order[rank < per_token]]


def is_text(row: Block, block_tokens: int, begin: list[int]) -> NDArray[np.bool_]:
    """Return which positions [T] of a packed block hold a document's own token.

    Padding does not (its segment has digest 0), nor the BOS token `begin` if the tokenizer sets
    one: its state is the same in every document.
    """
    starts = np.asarray(row["segment_starts"])
    lengths = np.diff(np.append(starts, block_tokens))
    text: NDArray[np.bool_] = np.repeat(np.asarray(row["doc_digests"]) != 0, lengths)
    first_ids = np.asarray(row["input_ids"])[starts]
    text[starts[np.isin(first_ids, begin)]] = False
    return text


def position_hashes(seed: int, row: Block, block_tokens: int) -> NDArray[np.uint64]:
    """Return a hash of (seed, document digest, position in the document) per position [T]."""
    starts = np.asarray(row["segment_starts"])
    lengths = np.diff(np.append(starts, block_tokens))
    digests = np.repeat(np.asarray(row["doc_digests"], np.int64).view(np.uint64), lengths)
    in_segment = np.arange(block_tokens) - np.repeat(starts, lengths)
    in_document = in_segment + np.repeat(np.asarray(row["doc_offsets"]), lengths)
    keyed = mixed(digests ^ mixed(np.uint64(seed)))
    hashes: NDArray[np.uint64] = mixed(keyed ^ in_document.astype(np.uint64))
    return hashes


def mixed(values: Any) -> Any:
    """Return splitmix64's finaliser of a uint64 or an array of them.

    Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014.
    """
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def is_held_out(rows: Rows) -> NDArray[np.bool_]:
    """Return which records are used only for measurements and never become senses; by hash."""
    held_out: NDArray[np.bool_] = rows["hash"] % np.uint64(QUERY_SHARE) == 0
    return held_out
