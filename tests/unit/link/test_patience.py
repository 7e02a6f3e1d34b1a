"""Replies that take longer to arrive than a teacher may be silent: heartbeats wait behind them."""

from __future__ import annotations

from dskd_ds.link.decisions import Removed
from dskd_ds.link.ledger import Ledger
from dskd_ds.link.patience import MAX_NAMES, Patience
from dskd_ds.link.present import Credits
from tests.unit.link.test_ledger import A, ledger_with, run


def losses(ledger: Ledger, reply_seconds: float, start: float) -> list[str]:
    """Ask for one answer whose transfer takes so long, during which no heartbeat comes.

    The teacher comes back after each loss. Returns why it was taken out, until it has answered or
    is banned.
    """
    reasons: list[str] = []
    ledger.add(round(start))
    while ledger.num_open and not ledger.ban_reason("a"):
        if A not in ledger.teachers:
            ledger.join(A, "a", Credits(2), now=start)
        (sent,) = ledger.dispatch(start)
        events = run(ledger, until=start + reply_seconds, start=start)
        reasons += [event.reason for event in events if isinstance(event, Removed)]
        start += reply_seconds
        ledger.note_sign_of_life(A, start)
        ledger.answer(A, sent.job_id, 0.5, now=start)
    return reasons


def test_a_reply_that_takes_long_to_arrive_is_waited_for_longer_each_time() -> None:
    ledger = ledger_with()
    first, second = losses(ledger, reply_seconds=35.0, start=0.0)
    assert first == "has been silent for 10 s"
    assert second.startswith("has been silent for 20 s; replies may take longer to arrive than")
    assert "[link] dead_after_seconds = 10: raise it" in second
    assert losses(ledger, reply_seconds=35.0, start=1000.0) == []  # it is known by now
    assert losses(ledger, reply_seconds=5.0, start=2000.0) == []
    assert len(losses(ledger, reply_seconds=35.0, start=3000.0)) == 2  # 5 s was quick


def test_a_reply_that_takes_longer_than_the_deadline_ends_the_teacher() -> None:
    *_, last = losses(ledger_with(), reply_seconds=100.0, start=0.0)
    assert last.startswith("has answered nothing for 60 s; replies may take longer to arrive than")


def test_a_teacher_that_falls_silent_with_nothing_to_do_gets_no_more_time() -> None:
    ledger = ledger_with(A)
    for start in (0.0, 11.0, 22.0):
        ledger.join(A, "a", Credits(2), now=start)
        (silent,) = run(ledger, until=start + 11.0, start=start)
        assert isinstance(silent, Removed)
        assert silent.reason == "has been silent for 10 s"


def test_what_no_heartbeat_could_name_is_not_lost() -> None:
    """Two replies arrive one after the other; heartbeats wait behind both of them."""
    ledger = ledger_with()
    losses(ledger, reply_seconds=15.0, start=0.0)
    for job_id in (101, 102):
        ledger.add(job_id)
    ledger.dispatch(100.0)
    ledger.note_sign_of_life(A, 100.0)
    ledger.note_held(A, [101, 102], 100.0)
    assert run(ledger, until=115.0, start=100.0) == []
    ledger.note_sign_of_life(A, 115.0)
    assert ledger.answer(A, 101, 0.5, now=115.0)
    assert run(ledger, until=130.0, start=115.0) == []
    assert ledger.answer(A, 102, 0.5, now=130.0)


def test_only_so_many_losses_are_remembered() -> None:
    patience = Patience(dead_after=10.0)
    for number in range(MAX_NAMES + 1):
        patience.note_loss(str(number))
    assert [patience.seconds(name) for name in ("0", "1")] == [10.0, 20.0]
