"""The feed over a real link: signals arrive at their positions, and shifted replies are refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.data.batches import Sample
from dskd_ds.errors import LinkError
from dskd_ds.link import StudentLink, TeacherLink, Work
from dskd_ds.link.messages import Hello
from dskd_ds.losses.distributions import Sampled, TopK
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.head import FrozenHead
from dskd_ds.senses.choose.on_teacher import NO_SENSES, TeacherSenses
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.signals.exact import TeacherStates
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.replies.alignment import AlignmentTest
from dskd_ds.student.replies.feed import Feed, StepInput
from dskd_ds.student.replies.requests import RequestBuilder
from dskd_ds.teacher.service import serve_requests
from tests.unit.conftest import HEAD, D, T, V


class Text:
    """Blocks that the fixture `teacher` predicts; each starts with another token.

    A block has two documents.
    """

    def get(self, block_index: int) -> tuple[Sample, dict[str, Any]]:
        ids = [block_index % V]
        while len(ids) < T:
            ids.append((7 * ids[-1] + 1) % V)
        return Sample(0, block_index), {
            "input_ids": ids,
            "segment_starts": [0, T // 2],
            "unsupervised": [],
        }


def spec_of(kind: str, *changes: str) -> RunSpec:
    return load_spec(
        "tests/base_run.toml",
        [
            *changes,
            f"loss.signal={kind}",
            "loss.top_k=4",
            "loss.sense_weight=0",
            "loss.num_draws=20",
            f"data.block_tokens={T}",
            "topology.num_students=1",
            "train.global_batch_blocks=3",
            "link.heartbeat_seconds=0.1",
            "link.dead_after_seconds=2.0",
        ],
    )


class ShiftedLink(TeacherLink):
    """A teacher's link that shifts each request's tokens, so that replies are shifted too."""

    shift = 0

    def next_request(self) -> Work | None:
        work = super().next_request()
        if work is None:
            return None
        shifted_ids = np.roll(work.arrays["input_ids"], self.shift, axis=1)
        return replace(work, arrays={**work.arrays, "input_ids": shifted_ids})


@contextmanager
def feed_of(
    spec: RunSpec,
    model: FrozenModel,
    folder: Path,
    shift: int = 0,
    student_senses: SenseRetriever | None = None,
    teacher_senses: SenseRetriever | None = None,
    first_step: int = 0,
) -> Iterator[Feed]:
    """A feed whose teacher answers in a thread.

    shift: by how many positions the teacher's replies are shifted.
    """
    student = StudentLink(folder, 0, spec.link, V, D)
    link = ShiftedLink(
        folder, spec.link, Hello(teacher="a", fingerprint="f", vocab_size=V, hidden_size=D), 1
    )
    link.shift = shift
    thread = threading.Thread(
        target=serve_requests, args=(model, TeacherSenses(teacher_senses), link), daemon=True
    )
    thread.start()
    head = FrozenHead(HEAD) if spec.loss.signal == "exact" else None
    requests = RequestBuilder(spec, student_senses, V, D)
    feed = Feed(
        spec,
        rank=0,
        source=Text(),
        link=student,
        requests=requests,
        self_test=AlignmentTest(requests, head, spec.train.on_policy_fraction, is_printing=True),
        device=torch.device("cpu"),
        steps=range(first_step, 5),
    )
    try:
        yield feed
    finally:
        feed.close()
        student.close()
        thread.join(20)  # the student has said goodbye
        link.close()


@pytest.mark.parametrize("kind", ["topk", "exact", "sampled"])
def test_each_signal_arrives_at_its_positions(
    tmp_path: Path, teacher: FrozenModel, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with feed_of(spec_of(kind), teacher, tmp_path) as feed:
        steps: list[StepInput] = []
        for _ in range(5):
            assert feed.counts() == (3 * (T - 2), 0)
            steps.append(feed.next())
    for step in steps:
        assert len(step.micro_batches) == 3
        for batch in step.micro_batches:
            positions, signal = batch.teacher.positions, batch.teacher.signal
            hidden = teacher.hidden_states(batch.input_ids, batch.position_ids)[0][positions]
            probs = torch.softmax(teacher.logits(hidden), dim=1)
            assert (batch.teacher.targets == batch.input_ids[0][positions + 1]).all()
            signal_class = {"topk": TopK, "exact": TeacherStates, "sampled": Sampled}[kind]
            assert isinstance(signal, signal_class)
            if isinstance(signal, TopK):
                assert (signal.ids == probs.topk(4, dim=1).indices).all()
            if isinstance(signal, TeacherStates):
                assert (signal.hidden == hidden.to(torch.bfloat16)).all()
            if isinstance(signal, Sampled):
                # Slices: a token's share is within a draw or two of its probability.
                errors = (signal.weights - probs.gather(1, signal.ids)).abs()
                assert (errors[signal.weights > 0] < 2 / 20).all()
    assert capfd.readouterr().err.count("alignment self-test: targets' log-probability") == 1


@pytest.mark.parametrize("kind", ["topk", "exact", "sampled"])
@pytest.mark.parametrize("shift", [1, -1])
def test_a_teacher_that_is_off_by_one_is_refused_before_the_first_step(
    tmp_path: Path, teacher: FrozenModel, kind: str, shift: int
) -> None:
    with (
        feed_of(spec_of(kind), teacher, tmp_path, shift) as feed,
        pytest.raises(LinkError, match="teacher a: its replies are shifted by one"),
    ):
        feed.next()


ON_POLICY = ("train.on_policy_prompt_tokens=4", "train.on_policy_new_tokens=4")


def test_text_of_the_student_is_not_judged(
    tmp_path: Path, teacher: FrozenModel, capfd: pytest.CaptureFixture[str]
) -> None:
    """An untrained student writes noise, which no teacher predicts best at the right position."""
    with feed_of(
        spec_of("topk", *ON_POLICY, "train.on_policy_fraction=1.0"), teacher, tmp_path, shift=1
    ) as feed:
        for _ in range(5):
            feed.next()
    printed = capfd.readouterr().err
    assert printed.count("alignment self-test") == 1
    assert printed.count("not judged, because the student wrote this text") == 1


def test_the_self_test_waits_for_text_that_the_student_did_not_write(
    tmp_path: Path, teacher: FrozenModel
) -> None:
    """Every second step is on-policy, so a run that is resumed after one step starts with one."""
    spec = spec_of("topk", *ON_POLICY, "train.on_policy_fraction=0.5")
    with feed_of(spec, teacher, tmp_path, shift=1, first_step=1) as feed:
        feed.next()
        with pytest.raises(LinkError, match="teacher a: its replies are shifted by one"):
            feed.next()


def reply_nan(
    link: TeacherLink, work: Work, arrays: dict[str, np.ndarray], forward_seconds: float
) -> None:
    """Reply with NaN, as a model with broken weights does."""
    tail = np.full_like(arrays["tail"], np.nan)
    TeacherLink.reply(link, work, arrays | {"tail": tail}, forward_seconds)


@contextmanager
def answering(link: TeacherLink, model: FrozenModel) -> Iterator[None]:
    """Let a teacher answer in a thread, until its students have said goodbye."""
    thread = threading.Thread(target=serve_requests, args=(model, NO_SENSES, link), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)
        link.close()


def test_a_teacher_with_nan_in_its_replies_loses_its_requests_to_another(
    tmp_path: Path, teacher: FrozenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("topk")
    hello = Hello(teacher="broken", fingerprint="f", vocab_size=V, hidden_size=D)
    broken = TeacherLink(tmp_path, spec.link, hello, num_students=1)
    has_replied = threading.Event()

    def reply_nan_first(*given: Any) -> None:
        reply_nan(broken, *given)
        has_replied.set()

    def reply_later(link: TeacherLink, *given: Any) -> None:
        # It holds two requests at most, so the broken teacher gets others.
        assert has_replied.wait(60)
        TeacherLink.reply(link, *given)

    monkeypatch.setattr(broken, "reply", reply_nan_first)
    monkeypatch.setattr(ShiftedLink, "reply", reply_later)
    with answering(broken, teacher), feed_of(spec, teacher, tmp_path) as feed:
        for _ in range(5):
            feed.counts()
            step = feed.next()
            assert step is not None
            for batch in step.micro_batches:
                assert isinstance(batch.teacher.signal, TopK)
                assert batch.teacher.signal.tail.isfinite().all()
    assert has_replied.is_set()


def test_if_no_teacher_has_finite_replies_the_error_names_all(
    tmp_path: Path, teacher: FrozenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShiftedLink, "reply", reply_nan)
    expected = "teacher a: its reply does not fit the request: tail has values from nan"
    with feed_of(spec_of("topk"), teacher, tmp_path) as feed:
        feed.counts()
        with pytest.raises(LinkError, match=expected):
            feed.next()


class SilentLink:
    """A link whose requests get no answer until it is closed."""

    def __init__(self) -> None:
        self._pending: list[Future[Any]] = []

    def submit(self, *_request: object, **_options: object) -> Future[Any]:
        self._pending.append(Future())
        return self._pending[-1]

    def close(self) -> None:
        for pending in self._pending:
            pending.set_exception(LinkError("closed"))


def test_a_wish_to_stop_ends_the_wait_for_a_teacher(tmp_path: Path) -> None:
    """SIGTERM often reaches the teachers too, and then no reply comes any more."""
    spec = spec_of("topk", f"run_dir={tmp_path}")
    requests = RequestBuilder(spec, None, V, D)
    feed = Feed(
        spec,
        rank=0,
        source=Text(),
        link=SilentLink(),
        requests=requests,
        self_test=AlignmentTest(requests, None, 0.0, is_printing=False),
        device=torch.device("cpu"),
        steps=range(5),
    )
    asked: list[bool] = []

    def is_stop_wanted() -> bool:
        asked.append(len(asked) == 2)
        return asked[-1]

    assert feed.counts() == (3 * (T - 2), 0)
    assert feed.next(is_stop_wanted) is None
    assert asked == [False, False, True]
    feed.close()
