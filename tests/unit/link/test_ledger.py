"""Which teacher gets which request: refusals, silence, credits, lost and late teachers."""

from __future__ import annotations

from collections import Counter

from dskd_ds.link.decisions import Event, Failed, Lost, Removed, Send
from dskd_ds.link.ledger import REFUSALS_IN_A_ROW, Ledger, Limits
from dskd_ds.link.open_job import MOST_ENDED
from dskd_ds.link.present import Credits

LIMITS = Limits(dead_after=10.0, deadline=60.0, deadline_factor=20.0)
A, B = b"a", b"b"


def ledger_with(*teachers: bytes, credits: int = 2, credit_bytes: int = 0) -> Ledger:
    ledger = Ledger(LIMITS, now=0.0, student="0")  # this student asks A first
    for teacher in teachers:
        ledger.join(teacher, teacher.decode(), Credits(credits, credit_bytes), now=0.0)
    return ledger


def run(
    ledger: Ledger, until: float, start: float = 0.0, alive: tuple[bytes, ...] = ()
) -> list[Event]:
    """Tick every second; teachers in `alive` hold all requests, and make no progress."""
    events: list[Event] = []
    now = start
    while now < until:
        now += 1.0
        for teacher in alive:
            ledger.note_sign_of_life(teacher, now, num_done=0)
            ledger.note_held(teacher, range(1000), now)
        events += ledger.tick(now)
    return events


def test_a_refused_request_goes_to_another_teacher_and_not_back() -> None:
    ledger = ledger_with(A, B)
    ledger.add(1)
    assert ledger.dispatch(0.0) == [Send(A, 1)]
    assert ledger.refuse(A, 1, "out of memory", now=1.0) == []
    assert ledger.dispatch(1.0) == [Send(B, 1)]
    assert ledger.answer(B, 1, 0.5, now=2.0)
    assert ledger.num_open == 0


def test_every_teacher_is_asked_before_one_is_asked_again() -> None:
    teachers = [str(number).encode() for number in range(16)]
    ledger = ledger_with(*teachers)
    asked = []
    for job_id in range(32):
        ledger.add(job_id)
        (sent,) = ledger.dispatch(0.0)
        ledger.answer(sent.teacher, job_id, 0.5, now=0.0)
        asked.append(sent.teacher)
    assert sorted(asked[:16]) == sorted(teachers)
    assert asked[16:] == asked[:16]


def test_a_teacher_that_answers_late_is_asked_less_often() -> None:
    ledger = ledger_with(A, B)
    asked: Counter[bytes] = Counter()
    now = 0.0
    for job_id in range(30):
        ledger.add(job_id)
        (sent,) = ledger.dispatch(now)
        now += 9.0 if sent.teacher == A else 1.0
        ledger.answer(sent.teacher, job_id, 0.5, now=now)
        asked[sent.teacher] += 1
    # Each is tried once; then the one that answers within a second gets all.
    assert asked == {A: 1, B: 29}


def test_a_late_teacher_is_asked_when_the_others_are_full() -> None:
    ledger = ledger_with(A, B)
    for job_id, seconds in ((0, 9.0), (1, 1.0)):
        ledger.add(job_id)
        (sent,) = ledger.dispatch(0.0)
        ledger.answer(sent.teacher, job_id, 0.5, now=seconds)
    for job_id in range(2, 6):
        ledger.add(job_id)
    assert [sent.teacher for sent in ledger.dispatch(10.0)] == [B, B, A, A]


def test_students_with_few_requests_keep_many_teachers_busy() -> None:
    num_asked: Counter[bytes] = Counter()
    for student in range(64):
        ledger = Ledger(LIMITS, now=0.0, student=str(student))
        for number in range(16):
            ledger.join(str(number).encode(), str(number), Credits(2), now=0.0)
        for job_id in range(4):
            ledger.add(job_id)
        num_asked.update(sent.teacher for sent in ledger.dispatch(0.0))
    # 256 requests: 16 for each teacher, if they were dealt out evenly.
    assert len(num_asked) == 16
    assert max(num_asked.values()) < 32


def test_a_request_that_every_teacher_refused_fails_with_all_reasons() -> None:
    ledger = ledger_with(A, B)
    ledger.add(1)
    ledger.dispatch(0.0)
    ledger.refuse(A, 1, "out of memory", now=1.0)
    ledger.dispatch(1.0)
    failed = ledger.refuse(B, 1, "too long", now=2.0)
    assert failed == [Failed(1, ("teacher a: out of memory", "teacher b: too long"))]
    assert ledger.num_open == 0


def test_a_request_that_one_teacher_refused_waits_for_a_second_to_come() -> None:
    """The only other teacher leaves: whoever is left has refused it, so it fails at once."""
    ledger = ledger_with(A, B)
    ledger.add(1)
    ledger.dispatch(0.0)
    ledger.refuse(A, 1, "no", now=1.0)
    removed, failed = ledger.leave(B, "left")
    assert removed == Removed(B, "b", "left", num_waiting=0, is_banned=False)
    assert failed == Failed(1, ("teacher a: no",))


def test_what_the_only_teacher_computed_when_it_broke_down_waits_for_the_next() -> None:
    ledger = ledger_with(A)
    for job_id in (1, 2):
        ledger.add(job_id)
    ledger.dispatch(0.0)
    (removed,) = ledger.break_down(A, 1, "its GPU failed")
    reason = "broke down: its GPU failed"
    assert removed == Removed(A, "a", reason, num_waiting=2, is_banned=False)
    ledger.join(B, "b", Credits(2), now=1.0)
    assert ledger.dispatch(1.0) == [Send(B, 1), Send(B, 2)]


def test_a_request_that_broke_down_several_teachers_fails_and_says_so() -> None:
    """The second request was with the same teachers, but they did not compute it."""
    ledger = ledger_with()
    for job_id in (1, 2):
        ledger.add(job_id)
    failed: list[Event] = []
    for number in range(MOST_ENDED):
        assert not failed
        name = f"t{number}"
        ledger.join(name.encode(), name, Credits(2), now=1.0)
        ledger.dispatch(1.0)
        _, *failed = ledger.break_down(name.encode(), 1, "its GPU failed")
    reasons = tuple(f"teacher t{number}: its GPU failed" for number in range(MOST_ENDED))
    assert failed == [Failed(1, reasons, has_ended_teachers=True)]
    assert ledger.num_open == 1


def test_teachers_that_leave_together_do_not_count_as_broken() -> None:
    """A stop signal to all of them: each gives the request to the next, which leaves too."""
    names = [str(number).encode() for number in range(2 * MOST_ENDED)]
    ledger = ledger_with(*names)
    ledger.add(1)
    for _ in names:
        (sent,) = ledger.dispatch(0.0)
        (removed,) = ledger.leave(sent.teacher, "left")
        assert isinstance(removed, Removed)
    assert ledger.num_open == 1


def test_a_teacher_that_refuses_again_and_again_is_banned_if_there_is_another() -> None:
    ledger = ledger_with(A, B, credits=REFUSALS_IN_A_ROW + 1)
    events: list[Event] = []
    for job_id in range(REFUSALS_IN_A_ROW):
        ledger.add(job_id)
    sent = {event.job_id for event in ledger.dispatch(0.0) if event.teacher == A}
    while sent:
        events += ledger.refuse(A, sent.pop(), "CUDA error", now=1.0)
        ledger.add(100 + len(events) + len(sent))
        sent |= {event.job_id for event in ledger.dispatch(1.0) if event.teacher == A}
    banned = [event for event in events if isinstance(event, Removed)]
    assert [event.teacher for event in banned] == [A]
    assert banned[0].is_banned
    assert "CUDA error" in str(ledger.ban_reason("a"))


def test_requests_of_a_lost_teacher_come_first_and_in_their_order() -> None:
    ledger = ledger_with(A)
    for job_id in (1, 2, 3):
        ledger.add(job_id)
    assert ledger.dispatch(0.0) == [Send(A, 1), Send(A, 2)]
    ledger.leave(A, "left")
    ledger.join(B, "b", Credits(3), now=1.0)
    assert ledger.dispatch(1.0) == [Send(B, 1), Send(B, 2), Send(B, 3)]
    assert not ledger.answer(A, 1, 0.5, now=2.0)  # a late reply


def test_a_silent_teacher_is_lost_and_a_hung_one_is_banned() -> None:
    ledger = ledger_with(A, B)
    ledger.add(1)
    ledger.dispatch(0.0)  # A has it
    (silent,) = run(ledger, until=20.0, alive=(A,))
    assert isinstance(silent, Removed)
    assert (silent.teacher, silent.is_banned) == (B, False)
    (hung,) = run(ledger, until=70.0, start=20.0, alive=(A,))
    assert isinstance(hung, Removed)
    assert (hung.teacher, hung.is_banned, hung.num_waiting) == (A, True, 1)
    assert "hangs" in hung.reason
    assert "raise [link] deadline_seconds" in hung.reason


def test_progress_for_other_students_is_progress() -> None:
    """A teacher whose queue is long answers others first."""
    ledger = ledger_with(A)
    ledger.add(1)
    ledger.dispatch(0.0)
    for now in range(1, 200):
        ledger.note_sign_of_life(A, float(now), num_done=now // 30)
        ledger.note_held(A, [1], float(now))
        assert ledger.tick(float(now)) == []


def test_slow_forwards_move_the_deadline() -> None:
    ledger = ledger_with(A)
    for job_id in range(5):
        ledger.add(job_id)
        ledger.dispatch(0.0)
        ledger.answer(A, job_id, forward_seconds=9.0, now=0.0)
    assert ledger.deadline() == 180.0


def test_a_pause_of_this_side_is_nobodys_silence() -> None:
    """Both sides were stopped for an hour: the teacher's last message is an hour old."""
    ledger = ledger_with(A)
    ledger.add(1)
    ledger.dispatch(0.0)
    assert ledger.tick(1.0) == []
    assert ledger.own_gap(3601.0) == 3600.0
    assert ledger.tick(3601.0) == []
    assert run(ledger, until=3605.0, start=3601.0) == []
    (silent,) = run(ledger, until=3620.0, start=3605.0)
    assert isinstance(silent, Removed)


def test_what_a_living_teacher_does_not_hold_is_sent_again() -> None:
    ledger = ledger_with(A)
    ledger.add(1)
    ledger.add(2)
    ledger.dispatch(0.0)
    events: list[Event] = []
    for now in range(1, 12):
        ledger.note_sign_of_life(A, float(now), num_done=0)
        ledger.note_held(A, [2], float(now))
        events += ledger.tick(float(now))
    assert events == [Lost(1, "a")]
    assert ledger.dispatch(12.0) == [Send(A, 1)]
    assert ledger.answer(A, 1, 0.5, now=13.0)
    assert not ledger.answer(A, 1, 0.5, now=14.0)  # the first reply was only late


def test_credits_hold_in_bytes_and_a_large_request_is_not_overtaken() -> None:
    ledger = ledger_with(A, credits=4, credit_bytes=100)
    for job_id, num_bytes in ((1, 60), (2, 60), (3, 10)):
        ledger.add(job_id, num_bytes)
    assert ledger.dispatch(0.0) == [Send(A, 1)]
    assert ledger.answer(A, 1, 0.5, now=1.0)
    assert ledger.dispatch(1.0) == [Send(A, 2), Send(A, 3)]


def test_a_request_above_all_credits_goes_alone() -> None:
    ledger = ledger_with(A, credits=4, credit_bytes=100)
    for job_id, num_bytes in ((1, 500), (2, 1)):
        ledger.add(job_id, num_bytes)
    assert ledger.dispatch(0.0) == [Send(A, 1)]
    assert ledger.answer(A, 1, 0.5, now=1.0)
    assert ledger.dispatch(1.0) == [Send(A, 2)]


def test_a_teacher_that_connects_again_replaces_its_earlier_connection() -> None:
    ledger = ledger_with(A)
    ledger.add(1)
    ledger.dispatch(0.0)
    (removed,) = ledger.join(B, "a", Credits(2), now=1.0)
    assert removed == Removed(A, "a", "has connected again", num_waiting=1, is_banned=False)
    assert ledger.teachers == [B]
    assert ledger.dispatch(1.0) == [Send(B, 1)]
