"""Stops a run that would lose more conversations than [data] max_lost_fraction allows.

Lost documents are counted in the results, not while they are prepared: the second start of a run
finds prepared rows in the cache of `datasets`, and must stop as the first did.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from dskd_ds.data.packing import text_digest
from dskd_ds.errors import InputError
from dskd_ds.spec.data import DataSpec


def check_lost(data: DataSpec, documents: Any, rows: Any, *, in_blocks: bool) -> None:
    """Raise InputError if too many documents are missing in the rows made of them.

    documents, rows: `datasets.Dataset`. in_blocks: whether the rows are blocks; a dictionary is
    built from blocks also where [data] packing = "none".
    """
    if data.max_lost_fraction == 1:  # the usual case: nothing is read
        return
    if in_blocks:
        num_documents, num_lost = count_lost_chats(documents, rows)
    else:
        num_documents, num_lost = len(documents), len(documents) - len(rows)
    refuse_lost_rows(data, num_documents, num_lost, in_blocks=in_blocks)


def refuse_lost_rows(data: DataSpec, num_documents: int, num_lost: int, *, in_blocks: bool) -> None:
    """Raise InputError if too many documents are missing in the rows, or not whole in blocks."""
    if in_blocks:
        reason = f"they are longer than a block of {data.block_tokens} tokens"
        way_out = 'raise [data] block_tokens, set packing = "none"'
    else:
        reason = "they are longer than the models read, or have no token to supervise"
        way_out = "shorten them"
    refuse_lost(data, "data.train", num_documents, num_lost, reason=reason, way_out=way_out)


def refuse_lost(
    data: DataSpec, key: str, num_documents: int, num_lost: int, *, reason: str, way_out: str
) -> None:
    """Raise InputError if `num_lost` of `num_documents` are more than the spec allows.

    key: where they come from. reason: why they are lost. way_out: what the user can do about it.
    """
    if num_lost > data.max_lost_fraction * num_documents:
        raise InputError(
            f"[{key}]: {num_lost} of {num_documents} conversations are lost: {reason}. [data]"
            f" max_lost_fraction = {data.max_lost_fraction} allows"
            f" {int(data.max_lost_fraction * num_documents)}.\n"
            f"  {way_out}, or raise max_lost_fraction."
        )


def count_lost_chats(documents: Mapping[str, Any], blocks: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of conversations, and how many of them are in no block as a whole.

    documents, blocks: by column. A conversation that was cut begins at an offset above 0.
    """
    digests = itertools.chain.from_iterable(blocks["doc_digests"])
    offsets = itertools.chain.from_iterable(blocks["doc_offsets"])
    whole = {digest for digest, offset in zip(digests, offsets, strict=True) if offset == 0}
    chats = [text for text, chat in zip(documents["text"], documents["chat"], strict=True) if chat]
    num_lost = sum(text_digest(text) not in whole for text in chats)
    return len(chats), num_lost
