"""Messages that a broken or hostile peer could send; a seed decides them."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from dskd_ds.link import codec
from dskd_ds.link.messages import (
    KINDS,
    PROTOCOL,
    Bye,
    CandidatesWanted,
    Failure,
    Hello,
    Message,
    Ping,
    Rejected,
    Reply,
    Request,
    TeacherPing,
    Welcome,
    WhoAreYou,
)
from tests.unit.link.test_link import ARRAYS, WANTED, reply_arrays

Frames = list[bytes]
CANDIDATES = CandidatesWanted(layer=3, key="dictionary d, settings s", num_rows=9, most=4)
WITH_CANDIDATES = WANTED.model_copy(update={"candidates": (CANDIDATES,)})
VALID: list[tuple[Message, dict]] = [
    (Hello(teacher="f", fingerprint="f", vocab_size=9, hidden_size=4, session=7), {}),
    (Welcome(student="s", num_students=2), {}),
    (Request(request_id=5, wanted=WANTED), ARRAYS),
    (Request(request_id=6, wanted=WITH_CANDIDATES), ARRAYS),
    (Reply(request_id=5, forward_seconds=0.5), reply_arrays(1)),
    (Failure(request_id=5, text="no"), {}),
    (Failure(request_id=5, text="lost", is_leaving=True), {}),
    (Ping(), {}),
    (TeacherPing(num_done=1, held=(1, 2, 5)), {}),
    (Bye(is_coming_back=True), {}),
    (WhoAreYou(), {}),
    (Rejected(text="no"), {}),
]
LARGE_NUMBERS = [2**31, 2**39, 2**40, 2**63, 2**64, 10**400, -1, 1.5, float("nan"), float("inf")]


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.open, (str(self._path), os.O_CREAT | os.O_WRONLY)


class Fuzzer:
    """Draws messages: noise, damaged valid ones, lying headers, deep JSON, pickles."""

    def __init__(self, seed: int, exploded: Path) -> None:
        """exploded: a file that must not exist afterwards."""
        self._draw = random.Random(seed)
        self._bomb = pickle.dumps(Bomb(exploded))

    def message(self) -> Frames:
        """Return one message, which is rarely a valid one."""
        ways = {
            self._noise: 1,
            self._damaged: 2,
            self._lying: 2,
            self._deep: 1,
            self._pickled: 1,
            self._valid: 1,
        }
        (way,) = self._draw.choices(list(ways), list(ways.values()))
        return way()

    def _noise(self) -> Frames:
        lengths = [self._draw.randint(0, 80) for _ in range(self._draw.randint(0, 40))]
        return [self._draw.randbytes(length) for length in lengths]

    def _valid(self) -> Frames:
        message, arrays = self._draw.choice(VALID)
        if isinstance(message, Hello):  # a new teacher each time, which a student admits
            message = message.model_copy(update={"teacher": f"hostile {self._draw.random()}"})
        return [bytes(frame) for frame in codec.encode(message, arrays)]

    def _damaged(self) -> Frames:
        """A valid message with a few changes; half of the time its header's checksum is right."""
        frames = [bytearray(frame) for frame in self._valid()]
        for _ in range(self._draw.randint(1, 4)):
            index = self._draw.randrange(len(frames))
            frame = frames[index]
            change = self._draw.randrange(5)
            if change == 0 and frame:
                frame[self._draw.randrange(len(frame))] ^= self._draw.randint(1, 255)
            elif change == 1:
                del frame[self._draw.randint(0, len(frame)) :]
            elif change == 2:
                frame += self._draw.randbytes(self._draw.randint(1, 50))
            elif change == 3:
                frames.insert(index, bytearray(frame))
            elif len(frames) > 1:
                del frames[index]
        if self._draw.random() < 0.5 and len(frames) > 1 and len(frames[0]) == codec.PREFIX.size:
            struct.pack_into("<I", frames[0], 8, zlib.crc32(frames[1]))
        return [bytes(frame) for frame in frames]

    def _lying(self) -> Frames:
        """A valid message whose header says something else than is there."""
        prefix, header, *buffers = self._valid()
        content = json.loads(header)
        for _ in range(self._draw.randint(1, 3)):
            self._change_somewhere(content)
        # Python writes NaN and Infinity, which are no JSON but which json.loads reads.
        return with_header(self._kind_of(prefix), json.dumps(content).encode(), buffers)

    def _change_somewhere(self, content: object) -> None:
        """Replace a value, deep in the header or at its top, by one of another class or size."""
        values: list[object] = [*LARGE_NUMBERS, None, True, "x" * 5000, [], {}, [[1]], "\ud800"]
        while isinstance(content, dict | list) and content:
            keys = list(content) if isinstance(content, dict) else range(len(content))
            key = self._draw.choice(list(keys))
            if self._draw.random() < 0.4 or not isinstance(content[key], dict | list):
                content[key] = self._draw.choice(values)
                if isinstance(content, dict) and self._draw.random() < 0.1:
                    content["unknown"] = 1
                return
            content = content[key]

    def _deep(self) -> Frames:
        """JSON that is nested deeper than a parser may recurse, also beyond the limit in bytes."""
        depth = self._draw.choice([100, 1000, 5000, 30_000, 200_000])
        opening, closing = self._draw.choice([("[", "]"), ('{"a":', "}")])
        text = opening * depth + "1" + closing * depth * self._draw.choice([0, 1])
        return with_header(self._draw.choice(list(KINDS)), text.encode(), [])

    def _pickled(self) -> Frames:
        """A pickle in the place of a header, of an array, or of the whole message."""
        place = self._draw.randrange(3)
        if place == 0:
            return [self._bomb]
        if place == 1:
            return with_header(self._draw.choice(list(KINDS)), self._bomb, [])
        return [*self._valid()[:2], self._bomb]

    @staticmethod
    def _kind_of(prefix: bytes) -> int:
        return int(codec.PREFIX.unpack(prefix)[2])


def with_header(kind: int, header: bytes, buffers: list[bytes]) -> Frames:
    """Return a message with a right prefix for a header of any content."""
    return [codec.PREFIX.pack(codec.MAGIC, PROTOCOL, kind, zlib.crc32(header)), header, *buffers]
