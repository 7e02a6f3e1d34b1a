"""Contexts of senses: text around the states nearest to a centroid, stored as Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dskd_ds.data.block import Block, Blocks

CONTEXTS_FILE = "contexts.parquet"
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("rank", pa.int8()),
        ("left", pa.string()),
        ("token", pa.string()),
        ("right", pa.string()),
    ]
)
"""Sorted by row and rank. Rank 0 is the state nearest to the sense."""
ROW_GROUP = 8192
"""Rows per Parquet row group. Groups without a wanted row are not read."""
LEFT_TOKENS, RIGHT_TOKENS = 16, 8
"""Maximum number of tokens on each side of a context."""


@dataclass(frozen=True)
class Context:
    """The text around one position of the corpus."""

    left: str
    """The text before that token."""
    token: str
    """The token that the state belongs to: the one that follows its position, which an arg-max
    attribution may have predicted otherwise, or with attribution "on" the one at its position."""
    right: str
    """The text after that token."""


def contexts_table(rows: Iterable[int], ranks: Iterable[int], contexts: list[Context]) -> pa.Table:
    """Return a table of SCHEMA: the contexts, and the dictionary row and rank of each."""
    columns: dict[str, list[Any]] = {
        "row": list(rows),
        "rank": list(ranks),
        "left": [context.left for context in contexts],
        "token": [context.token for context in contexts],
        "right": [context.right for context in contexts],
    }
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    return pa.table(arrays, schema=SCHEMA)


def snippets(
    blocks: Blocks,
    positions: NDArray[np.int64],
    block_tokens: int,
    tokenizer: Any,
    of_read_tokens: bool = False,
) -> list[Context]:
    """Return the text around the states at positions of the corpus.

    A position is block index * block_tokens + offset. A snippet stays within its document's segment
    of the block. of_read_tokens: a state belongs to the token at its position, not to the next.
    """
    pieces: list[list[int]] = []
    for position in positions.tolist():
        block_index, offset = divmod(position, block_tokens)
        token_offset = offset if of_read_tokens else offset + 1
        pieces += _pieces(blocks[block_index], offset, token_offset, block_tokens)
    if not pieces:
        return []  # transformers returns one text for an empty list
    texts = tokenizer.batch_decode(pieces, skip_special_tokens=True)
    # A character of several tokens may be cut at the outer ends.
    return [
        Context(texts[i].lstrip("\ufffd"), texts[i + 1], texts[i + 2].rstrip("\ufffd"))
        for i in range(0, len(texts), 3)
    ]


def _pieces(block: Block, offset: int, token_offset: int, block_tokens: int) -> list[list[int]]:
    """Return the token ids to the left of, at, and to the right of `token_offset`.

    They are of the segment that has the state's `offset`.
    """
    bounds = np.append(block["segment_starts"], block_tokens)
    segment = int(np.searchsorted(bounds, offset, side="right"))
    start, end = int(bounds[segment - 1]), int(bounds[segment])
    ids, after = block["input_ids"], token_offset + 1
    return [
        ids[max(start, token_offset - LEFT_TOKENS) : token_offset],
        ids[token_offset : min(end, after)],
        ids[after : min(end, after + RIGHT_TOKENS)],
    ]


def write_contexts(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of SCHEMA, in order of their rows, into one file."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROW_GROUP)


def read_contexts(path: Path, rows: Iterable[int]) -> dict[int, list[Context]]:
    """Return row -> contexts, nearest first. Only the needed parts of the file are read."""
    wanted = sorted(set(rows))
    found: dict[int, list[Context]] = {row: [] for row in wanted}
    if not wanted:
        return found
    table = pq.read_table(path, filters=[("row", "in", wanted)], memory_map=True)
    for entry in table.to_pylist():
        found[entry["row"]].append(Context(entry["left"], entry["token"], entry["right"]))
    return found
