"""Kept signal against a live teacher: the same bits, and nothing is asked twice."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dskd_ds.errors import InputError, LinkError
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.signal_cache.room import segment_files
from dskd_ds.signals.kind import signal_kind
from dskd_ds.spec import RunSpec
from dskd_ds.student.replies.feed import MicroBatch
from tests.unit.conftest import D, V
from tests.unit.signal_cache.world import (
    NUM_BLOCKS,
    DirectLink,
    cached,
    micro_batches,
    spec_of,
)
from tests.unit.small_llama import small_llama

SIGNALS = ("topk", "exact", "sampled", "hidden")


@pytest.fixture(scope="module")
def llama() -> FrozenModel:
    return small_llama(V, D)


def assert_same(found: Any, expected: Any) -> None:
    """Assert that two dataclasses, or two tensors, are equal to the last bit."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif is_dataclass(expected):
        for one in fields(expected):
            assert_same(getattr(found, one.name), getattr(expected, one.name))
    else:
        assert found == expected


def losses(spec: RunSpec, batches: list[MicroBatch], head: torch.Tensor) -> list[float]:
    """The divergence of a student with random logits, per micro-batch."""
    kind = signal_kind(spec.loss)
    found: list[float] = []
    for batch in batches:
        signal = batch.teacher.signal
        logits = torch.randn(
            len(batch.teacher.positions), len(head), generator=torch.Generator().manual_seed(1)
        )
        states = kind.teacher_states(signal)
        teacher_logits = None if states is None else states.float() @ head.T
        loss = kind.divergence_(logits, signal, teacher_logits, kd_scale=1.0, ce_scale=1.0)
        found.append(float(loss.values.sum()))
    return found


def retriever_of(spec: RunSpec, dictionary: SenseDictionary) -> SenseRetriever:
    return SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)


@pytest.mark.parametrize("signal", SIGNALS)
def test_kept_signal_is_that_of_a_live_teacher(
    tmp_path: Path, llama: FrozenModel, dictionary: SenseDictionary, signal: str
) -> None:
    """Two epochs; the cache is filled by two ranks with other micro-batches."""
    head = llama.head if signal == "exact" else None
    live_spec = spec_of(signal, "teacher.source=live", "teacher.block_by_block=true")
    retriever = retriever_of(live_spec, dictionary)
    live_link = DirectLink(llama)
    expected = micro_batches(live_spec, live_link, retriever, head=head)

    two_ranks = spec_of(signal, "topology.num_students=2", "train.micro_batch_blocks=2")
    filling = [DirectLink(llama), DirectLink(llama)]
    for rank, link in enumerate(filling):
        side = cached(link, tmp_path)
        micro_batches(two_ranks, side, retriever, rank=rank, head=head)

    # Everything is there: nothing may be asked, so there is no link at all.
    found = micro_batches(spec_of(signal), cached(None, tmp_path), retriever, head=head)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    if signal != "hidden":
        assert losses(live_spec, found, llama.head) == losses(live_spec, expected, llama.head)
    assert sum(link.rows for link in filling) <= live_link.rows


@pytest.mark.parametrize("signal", ["topk", "exact", "sampled"])
def test_the_second_epoch_asks_nothing(tmp_path: Path, llama: FrozenModel, signal: str) -> None:
    head = llama.head if signal == "exact" else None
    spec = spec_of(signal, "loss.sense_weight=0")
    link = DirectLink(llama)
    micro_batches(spec, cached(link, tmp_path), None, steps=range(2), head=head)
    assert link.rows == NUM_BLOCKS
    link = DirectLink(llama)
    micro_batches(spec, cached(link, tmp_path), None, steps=range(2, 4), head=head)
    assert link.rows == 0


def test_states_of_other_sense_positions_are_asked_and_added(
    tmp_path: Path, llama: FrozenModel, dictionary: SenseDictionary
) -> None:
    spec = spec_of("topk")
    retriever = retriever_of(spec, dictionary)
    first, second, third = (DirectLink(llama) for _ in range(3))
    micro_batches(spec, cached(first, tmp_path), retriever, steps=range(2))
    micro_batches(spec, cached(second, tmp_path), retriever, steps=range(2, 4))
    assert second.positions["top_k"] == 0
    assert 0 < second.positions["hidden"] < first.positions["hidden"]
    micro_batches(spec, cached(third, tmp_path), retriever)
    assert third.rows == 0


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        ("loss.top_k=5", True),
        ("loss.temperature=2.0", True),
        ("seed=4", False),
        ("link.hidden_format=float8", False),
        ("loss.num_draws=8", False),
        ("train.micro_batch_blocks=4", False),
    ],
)
def test_what_the_key_depends_on(
    tmp_path: Path, llama: FrozenModel, change: str, is_other: bool
) -> None:
    without = "loss.sense_weight=0"
    micro_batches(spec_of("topk", without), cached(DirectLink(llama), tmp_path), None, range(2))
    link = DirectLink(llama)
    micro_batches(spec_of("topk", without, change), cached(link, tmp_path), None, range(2))
    assert link.rows == (NUM_BLOCKS if is_other else 0)


def test_draws_depend_on_the_seed(tmp_path: Path, llama: FrozenModel) -> None:
    without = "loss.sense_weight=0"
    micro_batches(spec_of("sampled", without), cached(DirectLink(llama), tmp_path), None, range(2))
    link = DirectLink(llama)
    micro_batches(spec_of("sampled", without, "seed=4"), cached(link, tmp_path), None, range(2))
    assert link.rows == NUM_BLOCKS


def test_another_teacher_finds_nothing_and_one_that_comes_later_counts(
    tmp_path: Path, llama: FrozenModel, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of("topk", "loss.sense_weight=0")
    micro_batches(spec, cached(DirectLink(llama), tmp_path), None, range(2))
    other = DirectLink(llama, fingerprint="another teacher")
    micro_batches(spec, cached(other, tmp_path), None, range(2))
    assert other.rows == NUM_BLOCKS

    class Late(DirectLink):
        """Its teacher comes with the first request."""

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            self.fingerprint = "another teacher"
            return super().submit(*args, **kwargs)

    late = Late(llama, fingerprint=None)
    micro_batches(spec, cached(late, tmp_path, own="a third"), None, range(2))
    assert late.rows == 1  # all else is kept of the teacher that came
    assert "the teacher is another teacher" in capfd.readouterr().err


def test_damaged_records_are_asked_again(
    tmp_path: Path, llama: FrozenModel, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of("topk", "loss.sense_weight=0")
    expected = micro_batches(spec, cached(DirectLink(llama), tmp_path), None, range(2))
    segment = segment_files(tmp_path)[0].path
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    link = DirectLink(llama)
    found = micro_batches(spec, cached(link, tmp_path), None, range(2))
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert link.rows == 1
    assert segment.name in capfd.readouterr().err


@pytest.mark.parametrize("sense_weight", [0.0, 1.0])
def test_invalid_records_are_asked_again(
    tmp_path: Path,
    llama: FrozenModel,
    dictionary: SenseDictionary,
    capfd: pytest.CaptureFixture[str],
    sense_weight: float,
) -> None:
    """`dskd teach` once kept whatever a teacher said. No healthy teacher's reply is refused for it.

    Without senses the whole reply is kept; with them a part of it is asked.
    """

    class Broken(DirectLink):
        """Its replies change after they were checked."""

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            future = super().submit(*args, **kwargs)
            future.result().arrays["top_k_logits"][0, 0] = torch.nan
            return future

    without = spec_of("topk", "loss.sense_weight=0")
    with pytest.raises(LinkError, match="sent a reply that does not fit"):
        micro_batches(without, cached(Broken(llama), tmp_path), None, range(1))
    spec = spec_of("topk", f"loss.sense_weight={sense_weight}")
    retriever = retriever_of(spec, dictionary) if sense_weight else None
    expected = micro_batches(spec, DirectLink(llama), retriever, range(1))
    link = DirectLink(llama)
    found = micro_batches(spec, cached(link, tmp_path), retriever, range(1))
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert link.rows == NUM_BLOCKS // 2
    assert "top_k_logits has values from nan" in capfd.readouterr().err


def test_with_a_cache_alone_what_is_missing_is_one_clear_message(
    tmp_path: Path, llama: FrozenModel
) -> None:
    spec = spec_of("topk", "loss.sense_weight=0")
    micro_batches(spec, cached(DirectLink(llama), tmp_path), None, range(2))
    with pytest.raises(InputError, match=r"lacks the teacher's signal for 1 of the next 1 blocks"):
        micro_batches(
            spec_of("topk", "loss.sense_weight=0", "loss.top_k=5"),
            cached(None, tmp_path),
            None,
            range(2),
        )


def test_hits_are_counted(tmp_path: Path, llama: FrozenModel) -> None:
    spec = spec_of("topk", "loss.sense_weight=0", "train.micro_batch_blocks=4")
    micro_batches(spec, cached(DirectLink(llama), tmp_path), None, range(1))
    link = DirectLink(llama)
    side = cached(link, tmp_path)
    answers: list[Any] = []
    submit = side.submit

    def noted(*args: Any, **kwargs: Any) -> Any:
        answers.append(submit(*args, **kwargs))
        return answers[-1]

    side.submit = noted  # type: ignore[method-assign]
    micro_batches(spec, side, None, range(2))
    counts = [(one.result().num_kept / one.result().num_asked) for one in answers]
    assert counts == [1.0, 0.0]
    assert answers[0].result().link_bytes == 0
    assert link.is_closed
