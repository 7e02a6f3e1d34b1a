"""The teacher's signal: draws are unbiased and repeat, replies survive the wire, lies in them are refused, misalignment is noticed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.errors import LinkError
from dskd_ds.link import codec
from dskd_ds.link.messages import Reply, Wanted
from dskd_ds.link.packing import byte_width, pack, unpack
from dskd_ds.losses.distributions import TopK
from dskd_ds.models.frozen import TeacherModel
from dskd_ds.models.head import FrozenHead
from dskd_ds.signals.kind import Part, signal_kind
from dskd_ds.signals.parts.draws import Draws, take_draws
from dskd_ds.signals.parts.states import pack_hidden, unpack_hidden
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.signals.reply import ReplyParts, ReplyShape, read_reply, reply_arrays
from dskd_ds.signals.widths import BLOCK, hidden_width
from dskd_ds.spec.loss import LossSpec
from dskd_ds.student.alignment import Alignment, measure_alignment
from dskd_ds.teacher.answer import answer
from tests.unit.conftest import HEAD, D, T, V

WANTED = Wanted(
    top_k=4,
    temperatures=(1.0,),
    num_draws=20,
    draw_temperature=1.0,
    draw_seed=3,
    hidden_format="bfloat16",
)


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
    assert (numbers.shape, scales.shape) == tuple(
        (rows, width) for width in hidden_width("float8", size)
    )
    again = unpack_hidden(numbers, scales, "float8")
    largest = (
        torch.nn.functional.pad(hidden.abs(), (0, -size % BLOCK))
        .view(rows, -(-size // BLOCK), BLOCK)
        .amax(dim=2)
    )
    bound = (
        hidden.abs() / 14 + largest.repeat_interleave(BLOCK, dim=1)[:, :size] / 448 / 512
    )  # 1/16 of e4m3, then bfloat16's; denormals
    assert ((again.float() - hidden).abs() <= bound).all()


def test_states_of_zeros_and_bfloat16_states_are_exact() -> None:
    zeros = torch.zeros(2, 70)
    numbers, scales = pack_hidden(zeros, "float8")
    assert (unpack_hidden(numbers, scales, "float8") == 0).all()
    states = torch.randn(3, 70).to(torch.bfloat16)
    numbers, scales = pack_hidden(states, "bfloat16")
    assert (unpack_hidden(numbers, scales, "bfloat16") == states).all()


def test_draws_are_unbiased_and_scatter_less_than_independent_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 30, generator=generator) * 2
    probs = torch.softmax(logits / 1.5, dim=1).double()
    num_rows, num_draws = 20_000, 8
    sampled = take_draws(
        logits.expand(num_rows, 30),
        1.5,
        torch.rand(num_rows, num_draws, generator=generator, dtype=torch.float64),
    ).sampled()
    dense = torch.zeros(num_rows, 30).scatter_add_(1, sampled.ids, sampled.weights).double()
    variance = probs * (1 - probs) / num_draws
    assert ((dense.mean(dim=0) - probs[0]).abs() < 5 * (variance[0] / num_rows).sqrt()).all()
    assert (dense.var(dim=0) <= variance[0] * 1.1).all()


@settings(deadline=None)
@given(
    num_rows=st.integers(0, 6),
    vocab_size=st.integers(1, 40),
    num_draws=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_draws_are_a_distribution_over_different_tokens(
    num_rows: int, vocab_size: int, num_draws: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_rows, vocab_size, generator=generator) * 3
    logits[:, 0] = -torch.inf if vocab_size > 1 else 0.0  # impossible tokens are never drawn
    draws = take_draws(
        logits, 1.0, torch.rand(num_rows, num_draws, generator=generator, dtype=torch.float64)
    )
    sampled = draws.sampled()
    torch.testing.assert_close(sampled.weights.sum(dim=1), torch.ones(num_rows))
    for ids, weights in zip(sampled.ids, sampled.weights, strict=True):
        drawn = ids[weights > 0].tolist()
        assert len(set(drawn)) == len(drawn)
        assert vocab_size == 1 or 0 not in drawn
    said = (
        sampled.weights.double()
        * torch.log_softmax(logits.double(), dim=1).gather(1, sampled.ids).clamp_min(-1e6)
    ).sum(dim=1)
    torch.testing.assert_close(sampled.log_probs.double(), said, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
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
    frames = [
        bytes(f)
        for f in codec.encode(
            Reply(request_id=0, forward_seconds=0.0), reply_arrays(sent, wanted, vocab_size)
        )
    ]
    found = read_reply(codec.decode(frames, "peer")[1], wanted, ReplyShape(vocab_size, D, *rows))
    for mine, theirs in ((sent.top_k, found.top_k), (sent.draws, found.draws)):
        assert all((getattr(mine, name) == getattr(theirs, name)).all() for name in vars(mine))
    if hidden_format == "bfloat16":
        assert (found.hidden == sent.hidden.to(torch.bfloat16)).all()


def reply_of(rows: int = 3) -> dict[str, np.ndarray]:
    logits = torch.randn(rows, V, generator=torch.Generator().manual_seed(1))
    uniforms = torch.full((rows, WANTED.num_draws), 0.5, dtype=torch.float64)
    signal = ReplyParts(
        take_top_k(logits, 4, (1.0,)), take_draws(logits, 1.0, uniforms), torch.zeros(rows, D)
    )
    return {name: np.array(array) for name, array in reply_arrays(signal, WANTED, V).items()}


SHAPE = ReplyShape(V, D, 3, 3, 3)
NAN_BITS, INF_BITS = 0x7FC0, 0x7F80
"""Of bfloat16."""


def first_of(array: np.ndarray, value: float) -> np.ndarray:
    """A copy whose first number is `value`."""
    changed = array.copy()
    changed.flat[0] = value
    return changed


def doctored(name: str, change: object) -> dict[str, np.ndarray]:
    arrays = reply_of()
    arrays[name] = change(arrays[name])  # type: ignore[operator]
    return arrays


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("top_k_ids", lambda a: np.full_like(a, V), "not below"),
        ("top_k_logits", lambda a: a[:2], "top_k_logits has shape"),
        ("tail", lambda a: a.repeat(2, axis=1), "tail has shape"),
        ("hidden", lambda a: a[:, :-1], "hidden has shape"),
        ("hidden_scales", lambda a: np.zeros((len(a), 1), np.uint16), "hidden_scales has shape"),
        ("draw_lengths", lambda a: a + 1, "tokens and"),
        ("draw_counts", lambda a: np.full_like(a, 2), "do not make 20 draws"),
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
        (
            "hidden",
            lambda a: first_of(a.view(np.uint16), NAN_BITS).view(np.uint8),
            "hidden has values from nan",
        ),
        (
            "hidden",
            lambda a: first_of(a.view(np.uint16), INF_BITS).view(np.uint8),
            "hidden has values from .* to inf",
        ),
        ("draw_log_probs", lambda a: a[:2], "draw_log_probs has shape"),
        ("draw_log_probs", lambda a: a + np.float32(9), "no log-probabilities"),
        ("draw_log_probs", lambda a: a * np.float32(np.nan), "no log-probabilities"),
    ],
)
def test_a_reply_that_lies_is_refused(name: str, change: object, words: str) -> None:
    read_reply(reply_of(), WANTED, SHAPE)
    with pytest.raises(ValueError, match=words):
        read_reply(doctored(name, change), WANTED, SHAPE)


def test_the_tail_of_everything_and_float8_states_pass_unless_they_are_no_numbers() -> None:
    wanted = WANTED.model_copy(update={"hidden_format": "float8"})
    none = torch.zeros(0, dtype=torch.int64)
    signal = ReplyParts(
        take_top_k(torch.zeros(3, 4), 4, (1.0,)),
        Draws(none, none, none, torch.zeros(0)),
        torch.ones(3, D),
    )
    arrays = {name: np.array(array) for name, array in reply_arrays(signal, wanted, 4).items()}
    assert (arrays["tail"] == -np.inf).all()
    read_reply(arrays, wanted, ReplyShape(4, D, 3, 0, 3))
    for name, bits, words in (
        ("hidden", 0x7F, "from nan"),
        ("hidden_scales", NAN_BITS, "from nan"),
        ("hidden_scales", INF_BITS, "to inf"),
    ):
        with pytest.raises(ValueError, match=f"{name} has values .*{words}"):
            read_reply(
                arrays | {name: first_of(arrays[name], bits)}, wanted, ReplyShape(4, D, 3, 0, 3)
            )


def request(kind: str) -> tuple[dict[str, np.ndarray], torch.Tensor, dict[str, np.ndarray]]:
    """A block of text that `NextToken` knows, with the positions a student of signal `kind` asks for."""
    ids = [3]
    while len(ids) < T:
        ids.append((7 * ids[-1] + 1) % V)
    targets = torch.tensor([[*ids[1:], -100]])
    at = signal_kind(LossSpec(signal=kind)).positions(np.arange(T - 1), np.arange(2, T - 3))
    arrays = {
        "input_ids": np.array([ids], np.int32),
        "position_ids": np.arange(T, dtype=np.int32)[None],
        **{f"{name}_positions": positions.astype(np.int32) for name, positions in at.items()},
    }
    return arrays, targets, at


def aligned(
    name: str, targets: torch.Tensor, at: dict[Part, np.ndarray], reply: ReplyParts
) -> Alignment:
    """The self-test's result for a reply."""
    kind = signal_kind(LossSpec(signal=name))
    return measure_alignment(
        kind,
        targets=targets,
        positions=torch.from_numpy(at[kind.tested_part]),
        reply=reply,
        vocab_size=V,
        teacher_head=FrozenHead(HEAD),
    )


def rolled(signal: ReplyParts, by: int) -> ReplyParts:
    """The reply of a teacher that is off by one."""
    top_k = TopK(
        *(part.roll(by, 0) for part in (signal.top_k.ids, signal.top_k.logits, signal.top_k.tail))
    )
    row = torch.repeat_interleave(torch.arange(len(signal.draws.lengths)), signal.draws.lengths)
    order = torch.cat(
        [
            (row == number).nonzero().squeeze(1)
            for number in torch.arange(len(signal.draws.lengths)).roll(by)
        ]
        or [row]
    )
    draws = Draws(
        signal.draws.lengths.roll(by, 0),
        signal.draws.ids[order],
        signal.draws.counts[order],
        signal.draws.log_probs.roll(by, 0),
    )
    return replace(signal, top_k=top_k, draws=draws, hidden=signal.hidden.roll(by, 0))


@pytest.mark.parametrize("kind", ["topk", "exact", "sampled", "hidden"])
def test_self_test_tells_right_from_one_off(teacher: TeacherModel, kind: str) -> None:
    arrays, targets, at = request(kind)
    signal = read_reply(
        answer(teacher, arrays, WANTED),
        WANTED,
        ReplyShape(V, D, len(at["top_k"]), len(at["draw"]), len(at["hidden"])),
    )
    good = aligned(kind, targets, at, signal)
    assert good.is_conclusive
    assert good.right > max(good.before, good.after) + 1
    good.check("a")
    assert f"{good.right:.1f} nats at the right position" in good.line()
    for by, where in ((1, "earlier"), (-1, "later")):
        with pytest.raises(
            LinkError,
            match=f"teacher a: its replies are shifted by one position.*one position {where}",
        ):
            aligned(kind, targets, at, rolled(signal, by)).check("a")


def test_self_test_is_silent_where_it_cannot_tell() -> None:
    clueless = Alignment(
        before=-3.9, right=-5.0, after=-4.5, num_positions=200, vocab_size=V
    )  # 1 in V is -4.1
    clueless.check("a")
    assert "the test is not conclusive" in clueless.line()
    few = Alignment(before=-0.1, right=-5.0, after=-4.5, num_positions=3, vocab_size=V)
    few.check("a")
    assert "left out" in few.line()


def test_the_same_request_is_drawn_alike_and_another_is_not(teacher: TeacherModel) -> None:
    arrays, *_ = request("sampled")
    one, two = answer(teacher, arrays, WANTED), answer(teacher, arrays, WANTED)
    assert all((one[name] == two[name]).all() for name in one)
    other = answer(teacher, arrays, WANTED.model_copy(update={"draw_seed": 4}))
    assert (
        other["draw_ids"].shape != one["draw_ids"].shape
        or (other["draw_ids"] != one["draw_ids"]).any()
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("top_k_positions", [3, 3], "do not ascend"),
        ("draw_positions", [T], "outside"),
        ("input_ids", [[V] * T], "outside"),
        ("position_ids", [[0] * 3], "differ in shape"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    teacher: TeacherModel, name: str, value: list[int], words: str
) -> None:
    arrays = request("topk")[0] | {name: np.array(value, np.int32)}
    with pytest.raises(ValueError, match=words):
        answer(teacher, arrays, WANTED)


def test_drawn_log_probabilities_tend_to_the_true_ones(teacher: TeacherModel) -> None:
    """The self-test's estimate from draws against the teacher's own softmax, in float64."""
    arrays, targets, at = request("sampled")
    wanted = WANTED.model_copy(update={"num_draws": 5_000})
    signal = read_reply(
        answer(teacher, arrays, wanted),
        wanted,
        ReplyShape(V, D, len(at["top_k"]), len(at["draw"]), len(at["hidden"])),
    )
    found = aligned("sampled", targets, at, signal)
    hidden = teacher.hidden_states(
        torch.from_numpy(arrays["input_ids"]).long(), torch.arange(T)[None]
    )[0]
    exact = (
        torch.log_softmax(teacher.logits(hidden).double(), dim=1)[:-1]
        .gather(1, targets[0, :-1, None])
        .squeeze(1)
    )
    assert math.isclose(found.right, float(exact[1:-1].mean()), abs_tol=0.02)
