"""The parts of a reply: they survive the wire, and a reply with invalid content is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.link import codec
from dskd_ds.link.messages import Reply
from dskd_ds.link.packing import byte_width, pack, unpack
from dskd_ds.signals.parts.draws import Draws, take_draws
from dskd_ds.signals.parts.states import pack_hidden, unpack_hidden
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.signals.reply import (
    ReplyParts,
    ReplyShape,
    most_reply_bytes,
    read_reply,
    reply_arrays,
)
from dskd_ds.signals.widths import BLOCK, HEADER_BYTES, hidden_width
from tests.unit.conftest import D, V
from tests.unit.signals.known_request import WANTED

SHAPE = ReplyShape(V, D, 3, 3, 3)
NAN_BITS, INF_BITS = 0x7FC0, 0x7F80
"""Of bfloat16."""


@given(limit=st.integers(1, 1 << 24), values=st.lists(st.integers(0, (1 << 24) - 1), max_size=20))
def test_packed_numbers_survive(limit: int, values: list[int]) -> None:
    array = np.array(values, np.int64).reshape(-1, 1) % limit
    packed = pack(array, limit)
    assert packed.shape == (len(values), 1, byte_width(limit))
    np.testing.assert_array_equal(unpack(packed, limit), array)


def test_ids_take_the_fewest_bytes() -> None:
    assert [
        byte_width(limit) for limit in (1, 256, 257, 49_152, 65_536, 65_537, 128_256, 1 << 24)
    ] == [1, 1, 2, 2, 2, 3, 3, 3]
    with pytest.raises(ValueError, match="number 70 is not below 60"):
        unpack(np.array([[70]], np.uint8), 60)
    with pytest.raises(ValueError, match="numbers of 2 bytes, expected 3"):
        unpack(np.zeros((4, 2), np.uint8), 128_256)


@given(
    rows=st.integers(0, 5),
    size=st.integers(1, 200),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_float8_states_are_within_their_rounding(
    rows: int, size: int, scale: float, seed: int
) -> None:
    hidden = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * scale
    numbers, scales = pack_hidden(hidden, "float8")
    expected_shapes = tuple((rows, width) for width in hidden_width("float8", size))
    assert (numbers.shape, scales.shape) == expected_shapes
    unpacked = unpack_hidden(numbers, scales, "float8")
    padded = torch.nn.functional.pad(hidden.abs(), (0, -size % BLOCK))
    largest = padded.view(rows, -(-size // BLOCK), BLOCK).amax(dim=2)
    largest_of_block = largest.repeat_interleave(BLOCK, dim=1)[:, :size]
    # 1/16 of e4m3 and then bfloat16's rounding; denormals
    bound = hidden.abs() / 14 + largest_of_block / 448 / 512
    assert ((unpacked.float() - hidden).abs() <= bound).all()


def test_states_of_zeros_and_bfloat16_states_are_exact() -> None:
    zeros = torch.zeros(2, 70)
    numbers, scales = pack_hidden(zeros, "float8")
    assert (unpack_hidden(numbers, scales, "float8") == 0).all()
    states = torch.randn(3, 70).to(torch.bfloat16)
    numbers, scales = pack_hidden(states, "bfloat16")
    assert (unpack_hidden(numbers, scales, "bfloat16") == states).all()


@settings(max_examples=40)
@given(
    rows=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    num_draws=st.sampled_from([1, 20, 255, 300]),
    vocab_size=st.sampled_from([20, 300, 70_000]),
    hidden_format=st.sampled_from(["bfloat16", "float8"]),
    seed=st.integers(0, 99),
)
def test_a_reply_survives_the_wire(
    rows: tuple[int, int, int], num_draws: int, vocab_size: int, hidden_format: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows[0] + rows[1], vocab_size, generator=generator)
    wanted = WANTED.model_copy(update={"num_draws": num_draws, "hidden_format": hidden_format})
    uniforms = torch.rand(rows[1], num_draws, generator=generator, dtype=torch.float64)
    sent = ReplyParts(
        take_top_k(logits[: rows[0]], 4, (1.0,)),
        take_draws(logits[rows[0] :], 1.0, uniforms),
        torch.randn(rows[2], D),
    )
    header = Reply(request_id=0, forward_seconds=0.0)
    frames = codec.encode(header, reply_arrays(sent, wanted, vocab_size))
    arrays = codec.decode([bytes(frame) for frame in frames], "peer")[1]
    received = read_reply(arrays, wanted, ReplyShape(vocab_size, D, *rows))
    for before, after in ((sent.top_k, received.top_k), (sent.draws, received.draws)):
        assert all((getattr(before, name) == getattr(after, name)).all() for name in vars(before))
    most = most_reply_bytes(wanted, ReplyShape(vocab_size, D, *rows))
    # Several draws may fall on one token, so the bound is reached only without draws.
    assert codec.num_bytes(frames) <= most
    if not rows[1]:
        assert codec.num_bytes(frames) > most - HEADER_BYTES
    if hidden_format == "bfloat16":
        assert (received.hidden == sent.hidden.to(torch.bfloat16)).all()


def reply_of(rows: int = 3) -> dict[str, np.ndarray]:
    """The arrays of a valid reply."""
    logits = torch.randn(rows, V, generator=torch.Generator().manual_seed(1))
    uniforms = torch.full((rows, WANTED.num_draws), 0.5, dtype=torch.float64)
    top_k, draws = take_top_k(logits, 4, (1.0,)), take_draws(logits, 1.0, uniforms)
    parts = ReplyParts(top_k, draws, torch.zeros(rows, D))
    return {name: np.array(array) for name, array in reply_arrays(parts, WANTED, V).items()}


def first_of(array: np.ndarray, value: float) -> np.ndarray:
    """A copy whose first number is `value`."""
    changed = array.copy()
    changed.flat[0] = value
    return changed


def first_bits_of(array: np.ndarray, bits: int) -> np.ndarray:
    """A copy of packed bfloat16 numbers whose first number has these bits."""
    return first_of(array.view(np.uint16), bits).view(np.uint8)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("top_k_ids", lambda a: np.full_like(a, V), "not below"),
        ("top_k_logits", lambda a: a[:2], "top_k_logits has shape"),
        ("tail", lambda a: a.repeat(2, axis=1), "tail has shape"),
        ("hidden", lambda a: a[:, :-1], "hidden has shape"),
        ("hidden_scales", lambda a: np.zeros((len(a), 1), np.uint16), "hidden_scales has shape"),
        ("draw_lengths", lambda a: a + 1, "tokens and"),
        ("draw_counts", lambda a: np.full_like(a, 2), "do not sum to 20 draws"),
        ("draw_ids", lambda a: a[::-1], "do not ascend"),
        ("top_k_logits", lambda a: first_of(a, np.nan), "top_k_logits has values from nan"),
        ("top_k_logits", lambda a: first_of(a, -np.inf), "top_k_logits has values from -inf"),
        (
            "top_k_logits",
            lambda a: first_of(a, 0.5),
            "top_k_logits has values from .* to 0.5, expected -65504 to 0",
        ),
        ("tail", lambda a: first_of(a, np.nan), "tail has values from nan"),
        ("tail", lambda a: first_of(a, np.inf), "tail has values from .* to inf"),
        ("hidden", lambda a: first_bits_of(a, NAN_BITS), "hidden has values from nan"),
        ("hidden", lambda a: first_bits_of(a, INF_BITS), "hidden has values from .* to inf"),
        ("draw_log_probs", lambda a: a[:2], "draw_log_probs has shape"),
        ("draw_log_probs", lambda a: a + np.float32(9), "above 0 or not finite"),
        ("draw_log_probs", lambda a: a * np.float32(np.nan), "above 0 or not finite"),
    ],
)
def test_an_invalid_reply_is_refused(
    name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    arrays = reply_of()
    read_reply(arrays, WANTED, SHAPE)
    with pytest.raises(ValueError, match=message):
        read_reply(arrays | {name: change(arrays[name])}, WANTED, SHAPE)


def test_an_empty_tail_and_float8_states_are_valid_and_nan_and_inf_are_not() -> None:
    wanted = WANTED.model_copy(update={"hidden_format": "float8"})
    shape = ReplyShape(4, D, 3, 0, 3)
    none = torch.zeros(0, dtype=torch.int64)
    parts = ReplyParts(
        take_top_k(torch.zeros(3, 4), 4, (1.0,)),
        Draws(none, none, none, torch.zeros(0)),
        torch.ones(3, D),
    )
    arrays = {name: np.array(array) for name, array in reply_arrays(parts, wanted, 4).items()}
    assert (arrays["tail"] == -np.inf).all()
    read_reply(arrays, wanted, shape)
    for name, bits, message in (
        ("hidden", 0x7F, "from nan"),
        ("hidden_scales", NAN_BITS, "from nan"),
        ("hidden_scales", INF_BITS, "to inf"),
    ):
        invalid = arrays | {name: first_of(arrays[name], bits)}
        with pytest.raises(ValueError, match=f"{name} has values .*{message}"):
            read_reply(invalid, wanted, shape)
