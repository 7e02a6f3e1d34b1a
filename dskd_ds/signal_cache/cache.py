"""Looks up what a request asks for, block by block and part by part; keeps what a teacher replied.

A key is made of everything that a part of a block's signal depends on: the teacher's fingerprint,
the block's tokens and position ids without padding, and the part's settings. The positions are in
the record. So a block is found in another batch, of another rank, run or epoch, and only positions
that nobody asked for before are asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dskd_ds.link.messages import Array, Wanted
from dskd_ds.signal_cache.part_rows import (
    Ints,
    PartRows,
    check_rows,
    concatenate,
    empty_reply,
    merged,
    pack_rows,
    part_of_reply,
    unpack_rows,
)
from dskd_ds.signal_cache.segments import KEY_BYTES
from dskd_ds.signal_cache.store import SignalStore
from dskd_ds.signals.block_rows import unpadded_length
from dskd_ds.signals.kind import PARTS, Part

FORMAT = 1
"""Version of keys and payloads; records of another version are not found."""


@dataclass(frozen=True)
class BlockPart:
    """One part of the signal that is asked for at some positions of one row of a request."""

    row: int
    part: Part
    key: bytes
    asked: Ints
    """[N] positions within the row, ascending."""
    known: PartRows | None
    """What is kept of it, at any positions."""
    missing: Ints
    """[M] positions that are asked for and not kept."""


@dataclass(frozen=True)
class Found:
    """A request, and what is kept of its reply."""

    arrays: dict[str, Array]
    wanted: Wanted
    parts: list[BlockPart]
    """Those of which anything is asked, by row and then part."""

    @property
    def num_asked(self) -> int:
        """Positions of all parts that are asked for."""
        return sum(len(part.asked) for part in self.parts)

    @property
    def num_missing(self) -> int:
        """Those of them that are not kept."""
        return sum(len(part.missing) for part in self.parts)

    @property
    def num_missing_rows(self) -> int:
        """Rows of which anything is not kept."""
        return len(self._missing_rows)

    @property
    def _missing_rows(self) -> list[int]:
        return sorted({part.row for part in self.parts if len(part.missing)})

    def request(self) -> dict[str, Array]:
        """Return the arrays of a request for what is missing: only the rows that lack something."""
        rows = self._missing_rows
        width = self.arrays["input_ids"].shape[1]
        return {
            **self.arrays,  # targets and sample keys have no rows: no senses are wanted
            "input_ids": self.arrays["input_ids"][rows],
            "position_ids": self.arrays["position_ids"][rows],
            **{
                f"{part}_positions": self._flat_missing(part, rows, width).astype(np.int32)
                for part in PARTS
            },
        }

    def _flat_missing(self, part: Part, rows: Sequence[int], width: int) -> Ints:
        """Return a part's missing positions through the flattened rows of the smaller request."""
        flat = [
            rows.index(wanted.row) * width + wanted.missing for wanted in self._missing_of(part)
        ]
        return np.concatenate(flat) if flat else np.zeros(0, np.int64)

    def _missing_of(self, part: Part) -> Iterator[BlockPart]:
        return (one for one in self.parts if one.part == part and len(one.missing))

    def fresh_rows(self, reply: dict[str, Array]) -> Iterator[tuple[BlockPart, PartRows]]:
        """Yield what the reply to `request` says of each block.

        Raises ValueError if the reply has another number of positions.
        """
        for part in PARTS:
            wanted = list(self._missing_of(part))
            positions = [one.missing for one in wanted]
            whole = part_of_reply(part, np.concatenate([np.zeros(0, np.int64), *positions]), reply)
            end = 0
            for one in wanted:
                start, end = end, end + len(one.missing)
                yield one, whole.take(np.arange(start, end))

    def reply(self, fresh: dict[str, Array] | None, sizes: tuple[int, int]) -> dict[str, Array]:
        """Return the arrays of the whole reply. fresh: the reply to `request`; None: none was sent.

        sizes: vocabulary and hidden size. Raises ValueError if the fresh reply does not fit.
        """
        of_block: dict[tuple[int, Part], PartRows] = {}
        if fresh is not None:
            of_block = {(one.row, one.part): rows for one, rows in self.fresh_rows(fresh)}
        arrays = empty_reply(self.wanted, *sizes)
        for part in PARTS:
            rows: list[PartRows] = []
            for one in self.parts:
                if one.part == part:
                    sources = [one.known, of_block.get((one.row, one.part))]
                    whole = merged([source for source in sources if source is not None])
                    rows.append(whole.at(one.asked))
            if rows:
                arrays |= concatenate(rows).arrays
        return arrays


class SignalCache:
    """The kept signal of one teacher. An object is used by one thread at a time."""

    def __init__(self, store: SignalStore, fingerprint: str) -> None:
        """fingerprint: of the teacher (models/reply_identity.py)."""
        self.store, self.fingerprint = store, fingerprint

    def look_up(self, arrays: dict[str, Array], wanted: Wanted, sizes: tuple[int, int]) -> Found:
        """Return what is kept of a request's reply. The request is answered by block.

        sizes: the teacher's vocabulary and hidden size. A record that no student would accept
        counts as missing and is named on stderr.
        """
        assert wanted.by_block, "replies of other forward passes are not the same bits"
        assert wanted.senses is None, "senses depend on the epoch"
        assert not wanted.layers, "states of several layers are not kept"
        assert not wanted.candidates, "senses depend on the epoch"
        found = self._look_up(arrays, wanted, sizes)
        # Another process may have asked for it meanwhile.
        if found.num_missing and self.store.refresh():
            return self._look_up(arrays, wanted, sizes)
        return found

    def _look_up(self, arrays: dict[str, Array], wanted: Wanted, sizes: tuple[int, int]) -> Found:
        num_rows, width = arrays["input_ids"].shape
        parts: list[BlockPart] = []
        flat = {part: arrays[f"{part}_positions"].astype(np.int64) for part in PARTS}
        for row in range(num_rows):
            asked = {
                part: positions[(positions >= row * width) & (positions < (row + 1) * width)]
                - row * width
                for part, positions in flat.items()
            }
            content = _content(arrays, row, asked.values())
            for part in PARTS:
                if len(asked[part]):
                    key = self._key(part, wanted, content)
                    known = self._known(key, wanted, sizes)
                    parts.append(_block_part(row, part, key, asked[part], known))
        return Found(arrays, wanted, parts)

    def _known(self, key: bytes, wanted: Wanted, sizes: tuple[int, int]) -> PartRows | None:
        """Return the valid rows that are kept under a key; None if there are none."""

        def valid_rows(payload: bytes) -> PartRows:
            rows = unpack_rows(payload)
            check_rows(rows, wanted, sizes)
            return rows

        records = self.store.get(key, valid_rows)
        return merged(records) if records else None

    def keep(self, found: Found, fresh: dict[str, Array]) -> None:
        """Keep the reply to `found.request()`. Raises ValueError if it does not fit."""
        for one, rows in found.fresh_rows(fresh):
            self.store.put(one.key, pack_rows(rows))

    def _key(self, part: Part, wanted: Wanted, content: bytes) -> bytes:
        """Return the key of one part of a block."""
        settings = part_settings(part, wanted)
        digest = hashlib.blake2b(digest_size=KEY_BYTES)
        digest.update(f"{FORMAT} {self.fingerprint} {part} {settings} ".encode())
        digest.update(content)
        return digest.digest()


def _block_part(row: int, part: Part, key: bytes, asked: Ints, known: PartRows | None) -> BlockPart:
    missing = asked if known is None else np.setdiff1d(asked, known.positions, True)
    return BlockPart(row=row, part=part, key=key, asked=asked, known=known, missing=missing)


def part_settings(part: Part, wanted: Wanted) -> str:
    """Return what a part depends on besides the block and the teacher."""
    settings: dict[Part, Callable[[], str]] = {
        "top_k": lambda: f"{wanted.top_k} {wanted.temperatures}",
        "draw": lambda: f"{wanted.num_draws} {wanted.draw_temperature} {wanted.draw_seed}",
        "hidden": lambda: wanted.hidden_format,
    }
    return settings[part]()


def _content(arrays: dict[str, Array], row: int, asked: Iterable[Ints]) -> bytes:
    """Return the bytes of a row's tokens and position ids, as its forward pass reads them."""
    ids, position_ids = arrays["input_ids"][row], arrays["position_ids"][row]
    length = unpadded_length(ids, position_ids)
    # As the teacher does for text that looks like padding (teacher/blocks.py).
    if any(len(positions) and positions[-1] >= length for positions in asked):
        length = len(ids)
    read: list[bytes] = [values[:length].astype("<i4").tobytes() for values in (ids, position_ids)]
    return b"".join(read)
