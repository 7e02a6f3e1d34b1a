"""Which steps are skipped, what a spike is, and when a row of skipped steps leads to a rollback."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.errors import DskdError, ExitCode, OtherRankError
from dskd_ds.spec import load_spec
from dskd_ds.student.rollback import roll_back
from dskd_ds.student.skips import MAX_ROLLBACKS, Skips, StepFacts
from dskd_ds.student.training import Training

BASE = "tests/base_run.toml"
WINDOW = 8


def skips_of(sigmas: float = 0.0, rollback_after: int = 2) -> Skips:
    settings = [
        f"train.skip_loss_spikes={sigmas}",
        f"train.spike_window_steps={WINDOW}",
        f"train.rollback_after_skips={rollback_after}",
    ]
    return Skips(load_spec(BASE, settings).train)


def applied(loss: float) -> StepFacts:
    """A step that was trained."""
    return StepFacts([loss / 2, loss / 2], math.inf, is_applied=True)


BAD = StepFacts([1.0, math.nan], math.inf, is_applied=False)
OVERFLOW = StepFacts([1.0, 1.0], math.inf, is_applied=False, has_lowered_scale=True)


@pytest.mark.parametrize(
    ("losses", "limit", "lowered", "cause", "part_of_text"),
    [
        ([1.0, math.nan], math.inf, False, "loss", "rank 1: nan"),
        ([math.inf, 1.0], 3.0, True, "loss", "rank 0: inf"),
        ([-math.inf, math.inf], math.inf, False, "loss", "rank 0: -inf, rank 1: inf"),
        ([1.0, 5.0], 3.0, False, "spike", "rank 1: 5"),
        ([1.0, 5.0], 3.0, True, "spike", "rank 1: 5"),
        ([1.0, 1.0], 3.0, False, "gradient", "the rank is unknown"),
        ([1.0, 1.0], 3.0, True, "overflow", "the loss scale is lowered"),
    ],
)
def test_a_skipped_step_names_cause_and_rank(
    losses: list[float], limit: float, lowered: bool, cause: str, part_of_text: str
) -> None:
    facts = StepFacts(losses, limit, is_applied=False, has_lowered_scale=lowered)
    assert facts.cause == cause
    assert part_of_text in facts.describe()


def test_spikes_are_off_by_default_and_need_a_full_window() -> None:
    assert Skips(load_spec(BASE).train).loss_limit() == math.inf
    skips = skips_of(sigmas=6)
    for step in range(WINDOW):
        assert skips.loss_limit() == math.inf
        skips.note(step + 1, applied(3.0 + step % 2))
    # Mean 3.5, standard deviation 0.5.
    assert skips.loss_limit() == pytest.approx(3.5 + 6 * 0.5)


@given(
    losses=st.lists(st.floats(0.1, 20), min_size=WINDOW, max_size=30),
    sigmas=st.floats(1, 10),
)
def test_the_limit_is_that_of_the_newest_losses(losses: list[float], sigmas: float) -> None:
    skips = skips_of(sigmas=sigmas)
    for step, loss in enumerate(losses):
        skips.note(step + 1, applied(loss))
    newest = losses[-WINDOW:]
    mean = sum(newest) / WINDOW
    sigma = math.sqrt(sum((loss - mean) ** 2 for loss in newest) / WINDOW)
    assert skips.loss_limit() == pytest.approx(mean + sigmas * max(sigma, 1e-3 * mean))
    assert skips.loss_limit() > mean


def test_equal_losses_make_no_spike_of_a_slightly_higher_one() -> None:
    skips = skips_of(sigmas=6)
    for step in range(WINDOW):
        skips.note(step + 1, applied(2.0))
    assert 2.0 < 2.01 < skips.loss_limit() < 2.1


def test_losses_that_stay_high_are_trained_after_a_few_steps() -> None:
    skips = skips_of(sigmas=6, rollback_after=0)
    for step in range(WINDOW):
        skips.note(step + 1, applied(2.0 + 0.1 * (step % 2)))
    num_skipped = 0
    while skips.loss_limit() < 6.0:
        facts = StepFacts([3.0, 3.0], skips.loss_limit(), is_applied=False)
        skips.note(WINDOW + num_skipped + 1, facts)
        num_skipped += 1
        assert num_skipped <= WINDOW
    assert num_skipped == skips.counts["spike"] > 0


def test_a_loss_that_is_not_finite_does_not_enter_the_window() -> None:
    skips = skips_of(sigmas=6)
    for step in range(WINDOW):
        skips.note(step + 1, applied(2.0 + step % 2))
    limit = skips.loss_limit()
    skips.note(WINDOW + 1, BAD)
    assert skips.loss_limit() == limit


def test_only_a_row_of_skipped_steps_leads_to_a_rollback() -> None:
    skips = skips_of(rollback_after=2)
    for step, facts in enumerate((BAD, applied(1.0), BAD, OVERFLOW, OVERFLOW), start=1):
        skips.note(step, facts)
        assert not skips.is_rollback_due
    skips.note(6, BAD)
    assert skips.is_rollback_due
    assert skips.weights_step == 2
    assert skips.counts == {"loss": 3, "spike": 0, "gradient": 0, "overflow": 2}
    assert skips.record()["skipped"] == 5


def test_a_run_that_starts_with_a_checkpoint_rolls_back_to_an_earlier_one() -> None:
    skips = skips_of()
    skips.note_start(7)
    assert skips.weights_step == 7
    resumed = skips_of()
    resumed.load_state_dict([skips.state_dict() | {"weights_step": 4}])
    resumed.note_start(7)  # saved after steps 5 to 7 were skipped
    assert resumed.weights_step == 4


def test_zero_turns_rollbacks_off() -> None:
    skips = skips_of(rollback_after=0)
    for step in range(50):
        skips.note(step + 1, BAD)
    assert not skips.is_rollback_due


def test_rollbacks_are_given_up_unless_as_many_updates_come_between() -> None:
    skips = skips_of(rollback_after=2)
    for step in range(MAX_ROLLBACKS):
        assert not skips.has_rolled_back_in_vain
        skips.note(3 * step + 1, applied(1.0))  # one update alone is not enough
        skips.note_rollback(step)
    assert skips.has_rolled_back_in_vain
    skips.note(100, applied(1.0))
    assert skips.has_rolled_back_in_vain
    skips.note(101, applied(1.0))
    assert not skips.has_rolled_back_in_vain
    assert skips.num_rollbacks == MAX_ROLLBACKS


@given(
    events=st.lists(st.sampled_from(["good", "high", "bad", "overflow", "rollback"]), max_size=40)
)
def test_a_resumed_run_decides_like_an_undisturbed_one(events: list[str]) -> None:
    """At every point: the state goes through JSON, and the copy decides what the original does."""
    original = skips_of(sigmas=3)
    for step, event in enumerate(events, start=1):
        resumed = skips_of(sigmas=3)
        resumed.load_state_dict([json.loads(json.dumps(original.state_dict()))])
        for skips in (original, resumed):
            note(skips, step, event)
        assert resumed.state_dict() == original.state_dict()
        assert resumed.loss_limit() == original.loss_limit()
        assert resumed.record() == original.record()
        assert resumed.is_rollback_due == original.is_rollback_due
        assert resumed.has_rolled_back_in_vain == original.has_rolled_back_in_vain


def note(skips: Skips, step: int, event: str) -> None:
    """Let something happen in a step."""
    if event == "rollback":
        skips.note_rollback(step // 2)
        return
    loss = 9.0 if event == "high" else 2.0 + 0.1 * (step % 3)
    is_spike = loss > skips.loss_limit()
    facts = StepFacts([loss], skips.loss_limit(), is_applied=not is_spike)
    skips.note(step, {"bad": BAD, "overflow": OVERFLOW}.get(event, facts))


def training_of(rank: int) -> Training:
    """A training whose last two steps were skipped with the weights of step 5."""
    spec = load_spec(BASE, ["train.rollback_after_skips=2"])
    training = Training(
        spec,
        rank=rank,
        engine=Any,
        steps=Any,
        blocks=Any,
        num_done=7,
        num_steps=9,
        tokens=0,
        skips=Skips(spec.train),
    )
    for step, facts in ((5, applied(1.0)), (6, BAD), (7, BAD)):
        training.skips.note(step, facts)
    return training


def test_a_rollback_takes_a_checkpoint_from_before_the_present_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def restore_weights(_: Training, before: int) -> int:
        asked.append(before)
        return 3

    monkeypatch.setattr(Training, "restore_weights", restore_weights)
    training = training_of(rank=0)
    roll_back(training)
    assert asked == [5]
    assert (training.num_done, training.tokens) == (7, 0)  # the data go on
    assert training.skips.weights_step == 3
    assert not training.skips.in_a_row
    assert (
        "go back to the weights of step 3, and on to the data of step 8" in capsys.readouterr().err
    )


@pytest.mark.parametrize("reason", ["there is no checkpoint from before step 5", "did not help"])
def test_a_run_ends_if_there_is_nothing_to_go_back_to_or_it_does_not_help(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(Training, "restore_weights", lambda *_args, **_kwargs: 0)
    training, other = training_of(rank=0), training_of(rank=1)
    if reason == "did not help":
        for ranks in (training, other):
            ranks.skips.rollbacks_in_a_row = MAX_ROLLBACKS
    with pytest.raises(DskdError, match=reason) as caught:
        roll_back(training)
    assert caught.value.exit_code is ExitCode.FAILED
    assert "2 for loss" in str(caught.value)
    with pytest.raises(OtherRankError):
        roll_back(other)
