"""Encoded messages decode to the same messages; invalid ones raise an error that names the peer."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.errors import LinkError
from dskd_ds.link import codec
from dskd_ds.link.messages import (
    ARRAYS,
    PROTOCOL,
    Bye,
    Failure,
    Hello,
    Message,
    Ping,
    Reply,
    Request,
    TeacherPing,
    Wanted,
    Welcome,
)

WANTED = Wanted(
    top_k=5,
    temperatures=(1.0, 2.5),
    num_draws=50,
    draw_temperature=2.5,
    draw_seed=7,
    hidden_format="float8",
)

REQUEST = Request(request_id=3, wanted=WANTED)
REPLY = Reply(request_id=3, forward_seconds=0.5)
HEADERS: list[Message] = [
    Hello(teacher="t", fingerprint="f", vocab_size=10, hidden_size=4),
    Welcome(student="s", num_students=2),
    Failure(request_id=1, text="out of memory"),
    Failure(request_id=1, text="a rank has ended", is_leaving=True),
    Ping(),
    TeacherPing(num_done=3, held=(1, 2)),
    Bye(is_coming_back=True),
]


def arrays_for(model: type[Message], rows: int, columns: int, seed: int) -> dict[str, np.ndarray]:
    """Random arrays of the dtypes and numbers of dimensions that a message class carries."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, (dtype, num_dimensions) in ARRAYS[model].items():
        shape = (rows, columns, 2)[:num_dimensions]
        arrays[name] = generator.integers(0, 100, shape).astype(dtype)
    return arrays


@pytest.mark.parametrize("message", HEADERS, ids=lambda m: type(m).__name__)
def test_messages_without_arrays_round_trip(message: Message) -> None:
    assert codec.decode(codec.encode(message), "peer") == (message, {})


@given(
    rows=st.integers(0, 7),
    columns=st.integers(0, 5),
    seed=st.integers(0, 99),
    kind=st.sampled_from([Request, Reply]),
)
def test_messages_with_arrays_round_trip(
    rows: int, columns: int, seed: int, kind: type[Message]
) -> None:
    message = REQUEST if kind is Request else REPLY
    arrays = arrays_for(kind, rows, columns, seed)
    frames = [bytes(frame) for frame in codec.encode(message, arrays)]
    decoded, found = codec.decode(frames, "peer")
    assert decoded == message
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@given(frame=st.integers(0, 8), position=st.integers(0, 10_000), value=st.integers(1, 255))
def test_a_changed_byte_is_refused(frame: int, position: int, value: int) -> None:
    encoded = codec.encode(REQUEST, arrays_for(Request, 4, 4, 0))
    frames = [bytearray(encoded_frame) for encoded_frame in encoded]
    position %= len(frames[frame])
    frames[frame][position] ^= value
    with pytest.raises(LinkError, match="teacher seven"):
        codec.decode([bytes(changed) for changed in frames], "teacher seven")


@given(drop=st.integers(0, 8), cut=st.integers(0, 3))
def test_short_and_missing_frames_are_refused(drop: int, cut: int) -> None:
    encoded = codec.encode(REQUEST, arrays_for(Request, 4, 4, 0))
    frames = [bytes(frame) for frame in encoded]
    what_is_left = [frames[drop][:cut]] if cut else []
    frames = frames[:drop] + what_is_left + frames[drop + 1 :]
    with pytest.raises(LinkError, match="peer sent a message that cannot be read"):
        codec.decode(frames, "peer")


def test_unknown_protocols_and_kinds_are_named() -> None:
    _, header = codec.encode(Ping())
    with pytest.raises(LinkError, match="protocol 99"):
        codec.decode([codec.PREFIX.pack(codec.MAGIC, 99, 7, 0), header], "peer")
    with pytest.raises(LinkError, match="kind 77"):
        codec.decode([codec.PREFIX.pack(codec.MAGIC, PROTOCOL, 77, 0), header], "peer")
    with pytest.raises(LinkError, match="DSKD"):
        codec.decode([b"GET / HTTP/1", b"{}"], "peer")


@given(extra=st.integers(1, 64), frame=st.integers(0, 15))
def test_frames_that_are_too_long_are_refused(extra: int, frame: int) -> None:
    encoded = codec.encode(REPLY, arrays_for(Reply, 2, 3, 0))
    frames = [bytes(encoded_frame) for encoded_frame in encoded]
    frames[frame] += b"\0" * extra
    with pytest.raises(LinkError, match="teacher seven"):
        codec.decode(frames, "teacher seven")


@pytest.mark.parametrize("shape", [[2**39, 2**39], [-1, 4], [4], "ab", [1.5, 4]])
def test_wrong_shapes_are_refused(shape: object) -> None:
    prefix, header, *buffers = codec.encode(REQUEST, arrays_for(Request, 4, 4, 0))
    content = json.loads(bytes(header))
    content["shapes"][0] = shape
    header = json.dumps(content).encode()
    prefix = codec.PREFIX.pack(codec.MAGIC, PROTOCOL, 3, zlib.crc32(header))
    with pytest.raises(LinkError, match="peer sent a message that cannot be read"):
        codec.decode([prefix, header, *buffers], "peer")
