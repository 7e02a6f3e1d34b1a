"""The alignment self-test: it accepts a right reply, and reports one that is shifted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dskd_ds.errors import LinkError
from dskd_ds.losses.distributions import TopK
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.head import FrozenHead
from dskd_ds.signals.kind import signal_kind
from dskd_ds.signals.parts.draws import Draws
from dskd_ds.signals.reply import ReplyParts, read_reply
from dskd_ds.spec.loss import LossSpec
from dskd_ds.student.replies.alignment import Alignment, measure_alignment
from dskd_ds.teacher.answer import answer
from tests.unit.conftest import HEAD, T, V
from tests.unit.signals.known_request import WANTED, KnownRequest, known_request


def aligned(name: str, request: KnownRequest, reply: ReplyParts) -> Alignment:
    """The self-test's result for a reply."""
    kind = signal_kind(LossSpec(signal=name))
    return measure_alignment(
        kind,
        targets=request.targets,
        positions=torch.from_numpy(request.positions[kind.tested_part]),
        reply=reply,
        vocab_size=V,
        teacher_head=FrozenHead(HEAD),
    )


def shifted(reply: ReplyParts, by: int) -> ReplyParts:
    """The reply of a teacher whose positions are shifted."""
    top_k = TopK(
        reply.top_k.ids.roll(by, 0), reply.top_k.logits.roll(by, 0), reply.top_k.tail.roll(by, 0)
    )
    lengths = reply.draws.lengths
    row_of_each = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    rows = torch.arange(len(lengths)).roll(by)
    draws_of_rows = [(row_of_each == row).nonzero().squeeze(1) for row in rows]
    order = torch.cat(draws_of_rows) if draws_of_rows else row_of_each
    draws = Draws(
        lengths.roll(by, 0),
        reply.draws.ids[order],
        reply.draws.counts[order],
        reply.draws.log_probs.roll(by, 0),
    )
    return replace(reply, top_k=top_k, draws=draws, hidden=reply.hidden.roll(by, 0))


@pytest.mark.parametrize("kind", ["topk", "exact", "sampled", "hidden"])
def test_self_test_tells_right_from_one_off(teacher: FrozenModel, kind: str) -> None:
    request = known_request(kind)
    arrays = answer(teacher, request.arrays, WANTED)
    reply = read_reply(arrays, WANTED, request.reply_shape)
    good = aligned(kind, request, reply)
    assert good.is_conclusive
    assert good.right > max(good.before, good.after) + 1
    good.check("a")
    assert f"{good.right:.1f} nats at the right position" in good.line()
    for by, where in ((1, "earlier"), (-1, "later")):
        message = f"teacher a: its replies are shifted by one position.*one position {where}"
        with pytest.raises(LinkError, match=message):
            aligned(kind, request, shifted(reply, by)).check("a")


def test_self_test_does_not_fail_if_it_is_not_conclusive() -> None:
    uniform = math.log(1 / V)
    assert -4.5 < uniform < -3.9
    clueless = Alignment(before=-3.9, right=-5.0, after=-4.5, num_positions=200, vocab_size=V)
    clueless.check("a")
    assert "the test is not conclusive" in clueless.line()
    few = Alignment(before=-0.1, right=-5.0, after=-4.5, num_positions=3, vocab_size=V)
    few.check("a")
    assert "left out" in few.line()


def test_drawn_log_probabilities_tend_to_the_true_ones(teacher: FrozenModel) -> None:
    """The self-test's estimate from draws, against the teacher's own softmax in float64."""
    request = known_request("sampled")
    wanted = WANTED.model_copy(update={"num_draws": 5_000})
    arrays = answer(teacher, request.arrays, wanted)
    reply = read_reply(arrays, wanted, request.reply_shape)
    found = aligned("sampled", request, reply)
    input_ids = torch.from_numpy(request.arrays["input_ids"]).long()
    hidden = teacher.hidden_states(input_ids, torch.arange(T)[None])[0]
    log_p = torch.log_softmax(teacher.logits(hidden).double(), dim=1)[:-1]
    exact = log_p.gather(1, request.targets[0, :-1, None]).squeeze(1)
    assert math.isclose(found.right, float(exact[1:-1].mean()), abs_tol=0.02)
