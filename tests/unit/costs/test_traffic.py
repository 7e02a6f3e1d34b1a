"""The bytes that the plan promises are those of the real codec, for every signal kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.costs import traffic
from dskd_ds.link import codec
from dskd_ds.link.messages import Reply, Request, Wanted
from dskd_ds.losses.distributions import TopK
from dskd_ds.senses.choose.at_layer import TermRetriever
from dskd_ds.signals.kind import signal_kind
from dskd_ds.signals.parts.draws import Draws
from dskd_ds.signals.reply import ReplyParts, reply_arrays
from dskd_ds.signals.widths import TOKENS_PER_DRAW
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.spec.terms import LayerTermSpec
from dskd_ds.student.replies.requests import selection_arrays
from tests.unit.senses.choose import small

TOKENS, SENSE, HEADERS = 1000, 300, 2000


def spec_with(*overrides: str) -> RunSpec:
    return load_spec("tests/base_run.toml", list(overrides))


@pytest.mark.parametrize("hidden_format", ["bfloat16", "float8"])
@pytest.mark.parametrize("kind", ["topk", "exact", "sampled", "hidden"])
@pytest.mark.parametrize(("vocab_size", "hidden_size"), [(49_152, 576), (128_256, 100)])
def test_signal_bytes_are_the_codecs(
    kind: str, hidden_format: str, vocab_size: int, hidden_size: int
) -> None:
    spec = spec_with(
        f"loss.signal={kind}",
        f"link.hidden_format={hidden_format}",
        *(["loss.kd_weight=0.0"] if kind == "hidden" else []),
    )
    promised = traffic.signal_bytes(spec, vocab_size, hidden_size, SENSE / TOKENS)
    positions = signal_kind(spec.loss).positions(np.arange(TOKENS), np.arange(SENSE))
    wanted = Wanted(
        top_k=64,
        temperatures=(1.0,),
        num_draws=spec.loss.num_draws,
        draw_temperature=1.0,
        draw_seed=0,
        hidden_format=hidden_format,
    )
    drawn = round(TOKENS_PER_DRAW * spec.loss.num_draws)
    lengths = torch.full((len(positions["draw"]),), drawn)
    num_top_k, num_hidden = len(positions["top_k"]), len(positions["hidden"])
    top_k = TopK(
        torch.zeros(num_top_k, 64, dtype=torch.int64),
        torch.zeros(num_top_k, 64, dtype=torch.float16),
        torch.zeros(num_top_k, 1),
    )
    draws = Draws(
        lengths,
        torch.arange(drawn).repeat(len(lengths)),
        torch.ones(drawn * len(lengths), dtype=torch.int64),
        torch.zeros(len(lengths)),
    )
    parts = ReplyParts(top_k, draws, torch.randn(num_hidden, hidden_size))
    ids = np.zeros((1, TOKENS), np.int32)
    request_arrays = {
        "input_ids": ids,
        "position_ids": ids,
        "layer_positions": np.zeros(0, np.int32),
        **{f"{name}_positions": rows.astype(np.int32) for name, rows in positions.items()},
        **selection_arrays(None),
    }
    request = codec.encode(Request(request_id=0, wanted=wanted), request_arrays)
    reply = codec.encode(
        Reply(request_id=0, forward_seconds=0.0), reply_arrays(parts, wanted, vocab_size)
    )
    real = codec.num_bytes(request) + codec.num_bytes(reply)
    assert real - HEADERS < promised.total * TOKENS <= real
    assert promised.total == pytest.approx(
        promised.top_k + promised.draws + promised.hidden + promised.request
    )


@pytest.mark.parametrize(
    ("related", "share"), [(0.0, 0.0), (0.05, 25.6 / 256), (0.2, 50 / 256), (0.5, 0.4), (1.0, 0.8)]
)
def test_share_of_sense_positions_follows_the_rule(related: float, share: float) -> None:
    """In blocks of 256: all positions if they are few, else 25 or 40 %; and as many again."""
    assert traffic.sense_share(spec_with(), related) == pytest.approx(share)


def test_replies_and_senses_wait_for_their_step() -> None:
    """Each of two students holds three steps of two blocks of 256 tokens.

    A quarter of the tokens gets a sense term.
    """
    spec = spec_with(
        "train.global_batch_blocks=4",
        "topology.num_students=2",
        "data.block_tokens=256",
        "link.prefetch_depth=2",
        "senses.candidates=hybrid",
        "senses.kappa=5",
        "loss.top_k=64",
    )
    size = traffic.SignalBytes(
        top_k=100, draws=0, hidden=900, senses=0, request=24, sense_share=0.25
    )
    ids, senses = 64 * 8, 4 * 4096 + 2 * 5 * (2 * 4096 + 4 + 1) + 8 + 4 + 4 + 1
    assert traffic.held_bytes(spec, size, 4096, spec.data.block_tokens) == pytest.approx(
        3 * 2 * 256 * (1024 + ids + senses / 4)
    )


@pytest.mark.parametrize(
    ("credit_bytes", "num_messages"), [(0, 4), (1, 1), (700_000, 700_000 / 524_288), (1 << 40, 4)]
)
def test_a_teacher_holds_no_more_than_its_credits(credit_bytes: int, num_messages: float) -> None:
    """Each of two students may send four requests of two blocks of 256 tokens."""
    spec = spec_with(
        "train.global_batch_blocks=4",
        "train.micro_batch_blocks=2",
        "topology.num_students=2",
        "data.block_tokens=256",
        "link.credits=4",
        f"link.credit_bytes={credit_bytes}",
    )
    size = traffic.SignalBytes(
        top_k=100, draws=0, hidden=900, senses=0, request=24, sense_share=0.25
    )
    message = 2 * 256 * 1024
    held = traffic.teacher_held_bytes(spec, size, spec.data.block_tokens)
    assert held == pytest.approx(2 * num_messages * message)


def test_without_a_sense_term_there_are_no_sense_positions() -> None:
    assert traffic.sense_share(spec_with("loss.sense_weight=0.0"), 1.0) == 0


def test_senses_below_the_head_are_held_too(tmp_path: Path) -> None:
    """The bound covers what the terms really get, if each position had senses of its own."""
    kinds = ("posterior", "contrast", "sense", "cosine")
    settings = small.spec(candidates="hybrid", num_senses=small.PER_TOKEN)
    picker = small.retriever(small.dictionary_in(tmp_path / "senses"), settings)
    of = small.batch()
    num_positions = len(of.supervised)
    states = torch.randn(num_positions, small.D)
    for kind in kinds:
        smoothing = 0.5 if kind == "cosine" else 0.0
        term = LayerTermSpec(
            kind=kind, student_layer=1, weight=1.0, dictionary="-", smoothing=smoothing
        )
        learned = TermRetriever(picker, term, margin=1.0).senses(of, states)
        parts = [learned.candidates, learned.senses]
        tensors = [value for part in parts if part is not None for value in vars(part).values()]
        tensors += [] if learned.smoothed is None else [learned.smoothed]
        held = sum(tensor.nbytes for tensor in tensors)
        run = spec_with()
        loss = run.loss.model_copy(update={"terms": (term,)})
        run = run.model_copy(update={"loss": loss, "senses": settings})
        bound = traffic.held_term_bytes(run, small.D) * num_positions
        assert held <= bound + 100, kind
    assert traffic.held_term_bytes(spec_with(), small.D) == 0
