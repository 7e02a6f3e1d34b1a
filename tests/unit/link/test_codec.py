"""Messages survive the wire unchanged; anything else is refused with the peer's name."""

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
    Credit,
    Failure,
    Hello,
    Message,
    Ping,
    Reply,
    Request,
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

HEADERS: list[Message] = [
    Hello(teacher="t", fingerprint="f", vocab_size=10, hidden_size=4),
    Welcome(student="s"),
    Credit(num_requests=2),
    Failure(request_id=1, text="out of memory"),
    Ping(),
    Bye(),
]


def arrays_for(model: type[Message], rows: int, columns: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        name: draw.integers(0, 100, (rows, columns, 2)[:ndim]).astype(dtype)
        for name, (dtype, ndim) in ARRAYS[model].items()
    }


@pytest.mark.parametrize("message", HEADERS, ids=lambda m: type(m).__name__)
def test_header_only_round_trip(message: Message) -> None:
    assert codec.decode(codec.encode(message), "peer") == (message, {})


@given(
    rows=st.integers(0, 7),
    columns=st.integers(0, 5),
    seed=st.integers(0, 99),
    kind=st.sampled_from([Request, Reply]),
)
def test_round_trip_with_arrays(rows: int, columns: int, seed: int, kind: type[Message]) -> None:
    message = (
        Request(request_id=3, wanted=WANTED)
        if kind is Request
        else Reply(request_id=3, forward_seconds=0.5)
    )
    arrays = arrays_for(kind, rows, columns, seed)
    frames = [bytes(frame) for frame in codec.encode(message, arrays)]
    decoded, found = codec.decode(frames, "peer")
    assert decoded == message
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@given(frame=st.integers(0, 8), position=st.integers(0, 10_000), value=st.integers(1, 255))
def test_a_changed_byte_never_passes(frame: int, position: int, value: int) -> None:
    request = Request(request_id=3, wanted=WANTED)
    frames = [bytearray(f) for f in codec.encode(request, arrays_for(Request, 4, 4, 0))]
    position %= len(frames[frame])
    frames[frame][position] ^= value
    with pytest.raises(LinkError, match="teacher seven"):
        codec.decode([bytes(f) for f in frames], "teacher seven")


@given(drop=st.integers(0, 8), cut=st.integers(0, 3))
def test_short_and_missing_frames_never_pass(drop: int, cut: int) -> None:
    frames = [
        bytes(f)
        for f in codec.encode(Request(request_id=3, wanted=WANTED), arrays_for(Request, 4, 4, 0))
    ]
    frames = frames[:drop] + ([frames[drop][:cut]] if cut else []) + frames[drop + 1 :]
    with pytest.raises(LinkError, match="peer sent a message that cannot be read"):
        codec.decode(frames, "peer")


def test_other_protocols_and_kinds_are_named() -> None:
    _, header = codec.encode(Ping())
    with pytest.raises(LinkError, match="protocol 99"):
        codec.decode([codec.PREFIX.pack(codec.MAGIC, 99, 7, 0), header], "peer")
    with pytest.raises(LinkError, match="kind 77"):
        codec.decode([codec.PREFIX.pack(codec.MAGIC, PROTOCOL, 77, 0), header], "peer")
    with pytest.raises(LinkError, match="DSKD"):
        codec.decode([b"GET / HTTP/1", b"{}"], "peer")


@given(extra=st.integers(1, 64), frame=st.integers(0, 15))
def test_oversized_frames_never_pass(extra: int, frame: int) -> None:
    frames = [
        bytes(f)
        for f in codec.encode(Reply(request_id=3, forward_seconds=0.5), arrays_for(Reply, 2, 3, 0))
    ]
    frames[frame] += b"\0" * extra
    with pytest.raises(LinkError, match="teacher seven"):
        codec.decode(frames, "teacher seven")


@pytest.mark.parametrize("shape", [[2**39, 2**39], [-1, 4], [4], "ab", [1.5, 4]])
def test_shapes_that_lie_never_pass(shape: object) -> None:
    prefix, header, *buffers = codec.encode(
        Request(request_id=3, wanted=WANTED), arrays_for(Request, 4, 4, 0)
    )
    content = json.loads(bytes(header))
    content["shapes"][0] = shape
    header = json.dumps(content).encode()
    prefix = codec.PREFIX.pack(codec.MAGIC, PROTOCOL, 4, zlib.crc32(header))
    with pytest.raises(LinkError, match="peer sent a message that cannot be read"):
        codec.decode([prefix, header, *buffers], "peer")
