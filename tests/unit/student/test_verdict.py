"""The verdict of real gloo ranks: whatever one rank meets, all ranks end the same step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from dskd_ds.errors import (
    DskdError,
    ExitCode,
    LinkError,
    NoTeacherError,
    OtherRankError,
    RequeueError,
)
from dskd_ds.runtime.launch import free_port
from dskd_ds.runtime.stop import STOP_SIGNALS, StopWish
from dskd_ds.spec import load_spec
from dskd_ds.student import loop
from dskd_ds.student.phases import PLANNING, VERDICT, WAITING, Phases
from dskd_ds.student.skips import Skips
from dskd_ds.student.training import Training
from dskd_ds.student.verdict import Counts, Prepared, Verdict, prepare, raise_end
from tests.unit.student.verdict_worker import CASES

NUM_RANKS = 2


class Broken:
    """A source whose next step raises an error."""

    def __init__(self, error: Exception, in_counts: bool) -> None:
        self._error, self._in_counts = error, in_counts

    def fingerprints(self) -> list[str | None]:
        return []

    def counts(self) -> tuple[int, int]:
        if self._in_counts:
            raise self._error
        return 7, 2

    def next(self, is_stop_wanted: Any) -> Any:
        assert not is_stop_wanted()
        raise self._error


def training_of(rank: int, settings: Sequence[str] = (), **more: Any) -> Training:
    """Return a training after its first step."""
    spec = load_spec("tests/base_run.toml", settings)
    return Training(
        spec,
        rank=rank,
        engine=Any,
        steps=Any,
        blocks=Any,
        num_done=1,
        num_steps=9,
        tokens=0,
        skips=Skips(spec.train),
        **more,
    )


@pytest.mark.parametrize("in_counts", [True, False])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError("stale file handle"), ExitCode.FAILED),
        (MemoryError(), ExitCode.FAILED),
        (RuntimeError("out of memory"), ExitCode.FAILED),
        (ValueError("shape"), ExitCode.FAILED),
        (LinkError("broken"), ExitCode.FAILED),
        (NoTeacherError("none came"), ExitCode.NO_TEACHER),
    ],
)
def test_an_error_of_any_class_is_kept_for_the_verdict(
    error: Exception, code: ExitCode, in_counts: bool
) -> None:
    prepared = prepare(Broken(error, in_counts), lambda: False, Phases().enter)
    assert prepared == Prepared(error=error)
    assert prepared.exit_code is code


def test_text_that_the_student_writes_is_not_a_wait_for_the_teacher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`counts` plans, which may write text; `next` waits for replies."""
    training, met = training_of(rank=0), []
    training.steps = Mock(
        counts=lambda: met.append(training.phases.current.name) or (7, 2),
        next=lambda _: met.append(training.phases.current.name),
        fingerprints=lambda: [None],
    )

    def all_reduce(_: Prepared, **_flags: bool) -> Verdict:
        met.append(training.phases.current.name)
        return Verdict(Counts(7, 2), ExitCode.DONE, is_stop_wanted=True, is_save_due=False)

    monkeypatch.setattr(loop, "all_reduce_verdict", all_reduce)
    with pytest.raises(RequeueError):
        loop.next_step(training)
    assert met == [PLANNING, WAITING, VERDICT]


def test_an_own_error_comes_before_that_of_another_rank_and_before_a_stop() -> None:
    def ended(error: Exception | None, code: ExitCode, rank: int) -> type[BaseException]:
        verdict = Verdict(Counts(0, 0), code, is_stop_wanted=True, is_save_due=False)
        with pytest.raises((OSError, DskdError)) as caught:
            raise_end(Prepared(error=error), verdict, rank)
        if isinstance(caught.value, DskdError):
            assert caught.value.exit_code == (code or ExitCode.REQUEUE)
        return caught.type

    assert ended(OSError("disk"), ExitCode.NO_TEACHER, rank=1) is OSError
    assert ended(None, ExitCode.NO_TEACHER, rank=0) is OtherRankError
    assert ended(None, ExitCode.DONE, rank=0) is RequeueError
    assert ended(None, ExitCode.DONE, rank=1) is OtherRankError


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each rank got in each case of the worker."""
    folder, port = tmp_path_factory.mktemp("verdicts"), str(free_port())
    ranks = []
    for rank in range(NUM_RANKS):
        env = {"RANK": str(rank), "WORLD_SIZE": str(NUM_RANKS), "LOCAL_RANK": str(rank)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
        argv = [sys.executable, "-m", "tests.unit.student.verdict_worker", str(folder / str(rank))]
        ranks.append(subprocess.Popen(argv, env=dict(os.environ) | env))
    try:
        assert [process.wait(500) for process in ranks] == [0] * NUM_RANKS
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    found = [json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())]
    return {case: [by_case[case] for by_case in found] for case in CASES}


@pytest.mark.process
def test_all_ranks_get_the_same_verdict(verdicts: dict[str, list[dict[str, Any]]]) -> None:
    for case, (expected, *others) in verdicts.items():
        assert others == [expected] * (NUM_RANKS - 1), case
    everywhere = {case: found[0] for case, found in verdicts.items()}
    go_on = {
        "counts": [3, 2],
        "exit_code": 0,
        "is_stop_wanted": False,
        "is_save_due": False,
        "is_save_written": False,
        "is_teacher_new": False,
    }
    assert everywhere["all well"] == go_on
    assert everywhere["a save is due"] == go_on | {"is_save_due": True}
    assert everywhere["one has written"] == go_on
    assert everywhere["all have written"] == go_on | {"is_save_written": True}
    assert everywhere["one has met a teacher"] == go_on | {"is_teacher_new": True}
    assert everywhere["one is to stop"] == go_on | {"is_stop_wanted": True}
    # The failed rank brings no positions.
    assert everywhere["one has an OSError"] == go_on | {"counts": [1, 1], "exit_code": 1}
    assert everywhere["two errors"] == go_on | {"counts": [0, 0], "exit_code": 4}


@pytest.mark.parametrize(
    ("rank", "every_minutes", "minutes_ago", "is_due"),
    [(0, 15, 16, True), (0, 15, 14, False), (0, 0, 16, False), (1, 15, 16, False)],
)
def test_the_clock_of_rank_0_decides_when_to_save(
    rank: int, every_minutes: float, minutes_ago: float, is_due: bool
) -> None:
    settings = [f"checkpoint.every_minutes={every_minutes}"]
    training = training_of(rank, settings, saved_at=time.monotonic() - minutes_ago * 60)
    assert training.is_save_due_by_clock() is is_due


def test_signals_are_noted_and_a_second_one_is_harmless() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        for number in STOP_SIGNALS:
            wish = StopWish()
            wish.listen()
            assert not wish()
            for _ in range(2):
                signal.raise_signal(number)
                assert wish()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
