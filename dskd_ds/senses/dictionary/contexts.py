"""Where a sense was found: snippets of text around the states nearest to its centroid, beside the dictionary as Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

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
"""Sorted by row and rank; rank 0 is the state nearest to the sense."""
ROW_GROUP = 8192
LEFT_TOKENS, RIGHT_TOKENS = 16, 8


@dataclass(frozen=True)
class Context:
    """One place in the corpus. `token` is the text's own next token there, which an arg-max attribution may differ from."""

    left: str
    """The text up to the state, which predicts what follows."""
    token: str
    right: str


def contexts_table(rows: Iterable[int], ranks: Iterable[int], contexts: list[Context]) -> pa.Table:
    """Contexts with the dictionary row and rank of each -> a table of SCHEMA."""
    columns = [
        list(rows),
        list(ranks),
        *([getattr(c, name) for c in contexts] for name in ("left", "token", "right")),
    ]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def snippets(
    blocks: Any, places: NDArray[np.int64], block_tokens: int, tokenizer: Any
) -> list[Context]:
    """The text around some places (block number * block_tokens + position). A snippet stays within its document's part of the block."""
    pieces: list[list[int]] = []
    for place in places.tolist():
        number, position = divmod(place, block_tokens)
        block = blocks[number]
        bounds = np.append(block["segment_starts"], block_tokens)
        segment = int(np.searchsorted(bounds, position, side="right"))
        start, end, after = int(bounds[segment - 1]), int(bounds[segment]), position + 1
        ids = block["input_ids"]
        pieces += [
            ids[max(start, after - LEFT_TOKENS) : after],
            ids[after : min(end, after + 1)],
            ids[after + 1 : min(end, after + 1 + RIGHT_TOKENS)],
        ]
    if not pieces:
        return []  # transformers makes one text of no pieces
    texts = tokenizer.batch_decode(pieces, skip_special_tokens=True)
    # A character of several tokens may be cut at the outer ends.
    return [
        Context(texts[i].lstrip("\ufffd"), texts[i + 1], texts[i + 2].rstrip("\ufffd"))
        for i in range(0, len(texts), 3)
    ]


def write_contexts(path: Path, tables: Iterable[pa.Table]) -> None:
    """Tables of SCHEMA, in order of their rows -> one file."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROW_GROUP)


def read_contexts(path: Path, rows: Iterable[int]) -> dict[int, list[Context]]:
    """The contexts of some rows, nearest first; only the parts of the file that hold them are read."""
    wanted = sorted(set(rows))
    found: dict[int, list[Context]] = {row: [] for row in wanted}
    table = (
        pq.read_table(path, filters=[("row", "in", wanted)], memory_map=True)
        if wanted
        else SCHEMA.empty_table()
    )
    for entry in table.to_pylist():
        found[entry["row"]].append(Context(entry["left"], entry["token"], entry["right"]))
    return found
