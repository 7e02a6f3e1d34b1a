"""Why an attempt ended, and whether its job starts again."""

from __future__ import annotations

import pytest

from dskd_ds.observe.attempt_end import (
    Ending,
    StopWish,
    ends_a_chain,
    is_worth_another,
    message_of,
    reason_of,
)
from dskd_ds.observe.attempts import Attempt, Reason


def ending(
    code: int, wish: StopWish = "none", *, job_ends: bool = False, cause: str = "", lost: str = ""
) -> Ending:
    return Ending(
        exit_code=code,
        stop_wish=wish,
        is_job_ending=job_ends,
        cause=cause,
        lost_nodes=(lost,) if lost else (),
    )


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (ending(0), "done"),
        (ending(0, "ending", job_ends=True), "done"),
        (ending(2), "wrong_input"),
        (ending(3, "time_limit"), "time_limit"),
        (ending(138, "time_limit"), "time_limit"),  # USR1 came before the students listened
        (ending(3), "preempted"),
        (ending(143), "preempted"),  # TERM came before the students listened
        (ending(3, "ending", job_ends=True), "cancelled"),
        (ending(143, "ending", job_ends=True), "cancelled"),
        (ending(3, "time_limit", job_ends=True), "cancelled"),  # scancel during the save
        (ending(3, "ending", job_ends=True, cause="TIME LIMIT"), "time_limit"),
        (ending(3, "ending", job_ends=True, cause="PREEMPTION"), "preempted"),
        (ending(137, "ending", job_ends=True, cause="NODE FAILURE"), "node_lost"),
        (ending(137, lost="a2"), "node_lost"),
        (ending(1, lost="a2"), "node_lost"),
        (ending(4), "no_teacher"),
        (ending(4, lost="a3"), "node_lost"),
        (ending(1), "failed"),
        (ending(137), "failed"),
    ],
)
def test_the_reason(found: Ending, reason: Reason) -> None:
    assert reason_of(found) == reason


def attempt(number: int, first_step: int, last_step: int, job_id: str = "7") -> Attempt:
    return Attempt(
        number=number,
        job_id=job_id,
        nodes=["a1"],
        started=1.0,
        ended=2.0,
        first_step=first_step,
        last_step=last_step,
    )


@pytest.mark.parametrize("reason", ["done", "cancelled", "wrong_input"])
def test_what_a_user_wanted_or_must_correct_is_not_tried_again(reason: Reason) -> None:
    assert not is_worth_another(reason, attempt(1, 0, 9), [])


@pytest.mark.parametrize("reason", ["time_limit", "preempted", "node_lost"])
def test_what_the_cluster_did_is_tried_again_but_not_for_ever(reason: Reason) -> None:
    earlier = [attempt(1, 5, 5), attempt(2, 5, 5)]
    assert is_worth_another(reason, attempt(1, 5, 5), [])
    assert is_worth_another(reason, attempt(2, 5, 5), earlier[:1])
    assert not is_worth_another(reason, attempt(3, 5, 5), earlier)
    assert is_worth_another(reason, attempt(3, 5, 6), earlier)
    # A new submission is a new beginning.
    assert is_worth_another(reason, attempt(3, 5, 5, job_id="8"), earlier)


@pytest.mark.parametrize("reason", ["failed", "no_teacher"])
def test_a_failure_of_the_run_is_tried_again_only_after_progress(reason: Reason) -> None:
    assert is_worth_another(reason, attempt(1, 5, 6), [])
    assert not is_worth_another(reason, attempt(1, 5, 5), [])


@pytest.mark.parametrize("last_step", [5, 6])
def test_a_chain_ends_with_the_run_or_with_what_would_come_again(last_step: int) -> None:
    has_progress = last_step == 6
    expected: dict[Reason | None, bool] = {
        "done": True,
        "cancelled": True,
        "wrong_input": True,
        "failed": not has_progress,
        "no_teacher": not has_progress,
        "time_limit": False,
        "preempted": False,
        "node_lost": False,
        "unknown": False,
        None: False,
    }
    ended = attempt(1, 5, last_step)
    for reason, is_over in expected.items():
        assert ends_a_chain(ended.model_copy(update={"reason": reason})) is is_over


def test_the_message_says_what_was_saved_and_what_comes() -> None:
    found = message_of(
        "node_lost", ending(137, lost="a2"), attempt(1, 0, 9), goes_on="the job starts again"
    )
    assert found == "a2 failed; the newest checkpoint is step 9; the job starts again."
    repaired = attempt(1, 0, 0).model_copy(update={"last_repair_step": None})
    found = message_of("preempted", ending(3), repaired, goes_on="the job starts again")
    assert "; the repair is done, and no step after it was saved; " in found
    assert message_of("done", ending(0), attempt(1, 0, 9), goes_on="") == "the run is done."
