"""Senses that the teacher chooses: the student gets from their numbers what it would have chosen itself; lies and strangers are refused."""

from __future__ import annotations

import threading
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.data.batches import Batch, places, read_batch
from dskd_ds.link import codec
from dskd_ds.link.messages import Array, Reply, Request, SensesWanted, Wanted
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.frozen import TeacherModel
from dskd_ds.plan.traffic import MANY_ROWS, signal_bytes
from dskd_ds.senses.choose.retrieve import DECIDING, SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.index.graph import knn, load_graph, load_projection
from dskd_ds.signals.kind import signal_kind
from dskd_ds.signals.parts.chosen import Candidates, Chosen, chosen_arrays, read_chosen
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.signals.reply import ReplyParts, ReplyShape, read_reply
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec
from dskd_ds.student.requests import selection_arrays
from dskd_ds.teacher.answer import answer
from tests.unit.conftest import NUM_SPANS, PER_TOKEN, D, V, dictionary_in, senses
from tests.unit.student.test_feed import Text, feed_of, spec_of

NUM_ROWS = (V + NUM_SPANS) * PER_TOKEN
WEIGHTED = LossSpec(sense_weighting="teacher_probability")


def on_teacher(
    dictionary: SenseDictionary, settings: SensesSpec, loss: LossSpec = WEIGHTED, seed: int = 0
) -> SenseRetriever:
    graph, projection = load_graph(dictionary), load_projection(dictionary)
    return SenseRetriever(
        dictionary, settings, loss, seed, projection, lambda q, n: knn(graph, q, n)
    )


def batch() -> Batch:
    return read_batch(Text(), range(5, 8))


def request(
    some: Batch, kind: str, wanted: SensesWanted
) -> tuple[dict[str, Array], Wanted, dict[str, Any]]:
    """A request that wants the teacher to choose, after its journey."""
    at = signal_kind(LossSpec(signal=kind)).positions(
        some.supervised.numpy(), some.supervised.numpy()[:0]
    )
    message = Request(
        request_id=0,
        wanted=Wanted(
            top_k=4,
            temperatures=(2.0, 1.0),
            num_draws=20,
            draw_temperature=1.0,
            draw_seed=3,
            hidden_format="bfloat16",
            senses=wanted,
        ),
    )
    frames = codec.encode(
        message,
        {
            "input_ids": some.input_ids.numpy().astype(np.int32),
            "position_ids": some.position_ids.numpy().astype(np.int32),
            **{f"{name}_positions": positions.astype(np.int32) for name, positions in at.items()},
            **selection_arrays(some),
        },
    )
    received, arrays = codec.decode([bytes(frame) for frame in frames], "student")
    assert isinstance(received, Request)
    return arrays, received.wanted, at


def reply(
    arrays: dict[str, Array], wanted: Wanted, at: dict[str, Any], num_chosen: int
) -> ReplyParts:
    """A reply after its journey."""
    frames = codec.encode(Reply(request_id=0, forward_seconds=0.0), arrays)
    return read_reply(
        codec.decode([bytes(frame) for frame in frames], "teacher")[1],
        wanted,
        ReplyShape(V, D, len(at["top_k"]), len(at["draw"]), len(at["hidden"]), num_chosen),
    )


def assert_equal(found: SenseTargets, expected: SenseTargets) -> None:
    for part in fields(SenseTargets):
        assert torch.equal(getattr(found, part.name), getattr(expected, part.name)), part.name


@pytest.mark.parametrize("kind", ["topk", "sampled"])
@pytest.mark.parametrize(
    "settings",
    [
        senses(candidates="lexical"),
        senses(candidates="lexical", paper_exact=True),
        senses(candidates="neighbours"),
        senses(),
        senses(kappa=150),
    ],
    ids=["lexical", "paper-exact", "neighbours", "hybrid", "sets-of-hundreds"],
)
def test_the_student_gets_what_it_would_have_chosen(
    dictionary: SenseDictionary, teacher: TeacherModel, settings: SensesSpec, kind: str
) -> None:
    """To the last bit what unrounded states give; and no states travel."""
    theirs, mine, some = (
        on_teacher(dictionary, settings),
        SenseRetriever(dictionary, settings, WEIGHTED, 0),
        batch(),
    )
    selection = mine.select(some)
    arrays, wanted, at = request(some, kind, mine.wanted)
    signal = reply(answer(teacher, arrays, wanted, theirs), wanted, at, len(selection))
    hidden = teacher.hidden_states(some.input_ids, some.position_ids).flatten(0, 1)[
        torch.from_numpy(selection.positions)
    ]
    expected = theirs.targets(
        selection, hidden, take_top_k(teacher.logits(hidden), 4, (2.0, 1.0)), 1
    )
    assert_equal(mine.pack(selection, signal.chosen), expected)
    assert len(signal.hidden) == 0
    assert len(signal.top_k.ids) == (len(some.supervised) if kind == "topk" else 0)
    assert expected.has_pull.any()
    assert expected.push_mask.any()
    assert 0 < expected.weights.min() < expected.weights.max() <= 1


def test_states_decide_before_they_are_rounded(teacher: TeacherModel, tmp_path: Path) -> None:
    """Among so many senses that rounded states pick others."""
    settings, some = senses(candidates="lexical", kappa=20), batch()
    able = on_teacher(dictionary_in(tmp_path / "dense", per_token=100), settings)
    selection = able.select(some)
    arrays, wanted, at = request(some, "topk", able.wanted)
    found = reply(answer(teacher, arrays, wanted, able), wanted, at, len(selection)).chosen
    hidden = teacher.hidden_states(some.input_ids, some.position_ids).flatten(0, 1)[
        torch.from_numpy(selection.positions)
    ]
    exact, rounded = (
        able.lexical(selection, states)[0].rows for states in (hidden, hidden.bfloat16().float())
    )
    assert (found.pull.rows == exact).all()
    assert (found.pull.rows != rounded).any()


def test_a_step_is_the_same_wherever_senses_are_chosen(
    dictionary: SenseDictionary, teacher: TeacherModel, tmp_path: Path
) -> None:
    """Over the real link; the teacher's states are bfloat16's, so nothing is rounded on the way."""
    forward = teacher.trunk.forward
    teacher.trunk.forward = lambda **words: SimpleNamespace(
        last_hidden_state=forward(**words).last_hidden_state.bfloat16().float()
    )
    steps = {}
    for where in ("student", "teacher"):
        spec = spec_of("topk")
        settings = senses(retrieve_on=where)
        spec = spec.model_copy(
            update={"senses": settings, "loss": spec.loss.model_copy(update={"sense_weight": 0.5})}
        )
        able = on_teacher(dictionary, settings, spec.loss)
        mine, theirs = (
            (able, None)
            if where == "student"
            else (SenseRetriever(dictionary, settings, spec.loss, spec.seed), able)
        )
        with feed_of(spec, teacher, tmp_path / where, 0, mine, theirs) as feed:
            counts = feed.counts()
            steps[where] = feed.next()
        assert (
            counts[1]
            == sum(len(micro.senses.positions) for micro in steps[where].micro_batches)
            > 0
        )
        for number, micro in enumerate(steps[where].micro_batches):
            expected = able.select(read_batch(Text(), places(spec, 0, number, 0)))
            assert micro.senses.positions.tolist() == expected.positions.tolist()
    for ours, others in zip(
        steps["student"].micro_batches, steps["teacher"].micro_batches, strict=True
    ):
        assert_equal(ours.senses, others.senses)
        assert ours.senses.coverage.sum() > 0


def test_senses_are_chosen_beside_the_next_forward(
    dictionary: SenseDictionary,
    teacher: TeacherModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first choosing waits until the second forward pass has begun: in turn they would never end."""
    spec = spec_of("topk")
    spec = spec.model_copy(
        update={
            "senses": senses(retrieve_on="teacher"),
            "loss": spec.loss.model_copy(update={"sense_weight": 0.5}),
        }
    )
    mine, theirs = (
        SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed),
        on_teacher(dictionary, spec.senses, spec.loss),
    )
    forward, choose = teacher.trunk.forward, theirs.choose
    begun, second, met = [], threading.Event(), []

    def counted_forward(**words: Any) -> Any:
        begun.append(words)
        if len(begun) == 2:
            second.set()
        return forward(**words)

    def waiting_choose(*given: Any) -> Chosen:
        met.append(second.wait(20))
        return choose(*given)

    teacher.trunk.forward = counted_forward
    monkeypatch.setattr(theirs, "choose", waiting_choose)
    with feed_of(spec, teacher, tmp_path, 0, mine, theirs) as feed:
        step = feed.next()
    assert met[0]
    assert sum(len(micro.senses.positions) for micro in step.micro_batches) > 0


def chosen(seed: int = 0, positions: int = 7, most: int = 4, num_rows: int = NUM_ROWS) -> Chosen:
    draw = np.random.default_rng(seed)

    def some() -> Candidates:
        where = np.repeat(np.arange(positions), draw.integers(0, most + 1, positions))
        return Candidates(where, draw.integers(0, num_rows, len(where)))

    return Chosen(
        draw.random(positions).astype(np.float32), some(), some(), draw.random(positions) < 0.5
    )


@given(
    seed=st.integers(0, 999),
    positions=st.integers(0, 9),
    most=st.sampled_from([1, 4, 300]),
    num_rows=st.sampled_from([1, 300, 1 << 20]),
)
def test_what_was_chosen_survives_the_wire(
    seed: int, positions: int, most: int, num_rows: int
) -> None:
    sent, form = (
        chosen(seed, positions, most, num_rows),
        SensesWanted(key="", num_rows=num_rows, most=most),
    )
    found = read_chosen(chosen_arrays(sent, form), form, positions)
    for mine, theirs in ((sent.pull, found.pull), (sent.push, found.push)):
        assert (mine.positions == theirs.positions).all()
        assert (mine.rows == theirs.rows).all()
    assert (sent.weights == found.weights).all()
    assert (sent.with_neighbours == found.with_neighbours).all()


FORM = SensesWanted(key="", num_rows=NUM_ROWS, most=4)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "pull_rows",
            lambda a: np.full_like(a, NUM_ROWS),
            f"pull: number {NUM_ROWS} is not below {NUM_ROWS}",
        ),
        ("push_rows", lambda a: a[:-1], "push has .* rows, 7 lengths that sum to"),
        (
            "push_rows",
            lambda a: np.pad(a, ((0, 0), (0, 1))),
            "push: numbers of 2 bytes, expected 1",
        ),
        (
            "pull_lengths",
            lambda a: np.roll(np.minimum(a + 1, 4), 1),
            "pull has .* rows, 7 lengths that sum to",
        ),
        ("pull_lengths", lambda a: np.full_like(a, 5), "pull: number 5 is not below 5"),
        (
            "push_lengths",
            lambda a: np.append(a, [[0]], axis=0).astype(np.uint8),
            "8 lengths that sum to .* and 7 positions",
        ),
        ("sense_weights", lambda a: a[1:], "sense_weights has shape"),
        ("sense_weights", lambda a: np.full_like(a, np.nan), "no weights"),
        ("sense_weights", lambda a: -1 - a, "no weights"),
        ("sense_neighbours", lambda a: a[1:], "sense_neighbours has shape"),
        ("sense_neighbours", lambda a: a + 2, "beside 0 and 1"),
    ],
)
def test_a_choice_that_lies_is_refused(name: str, change: Any, words: str) -> None:
    arrays = chosen_arrays(chosen(), FORM)
    read_chosen(arrays, FORM, 7)
    with pytest.raises(ValueError, match=words):
        read_chosen(arrays | {name: change(arrays[name])}, FORM, 7)


def test_a_set_that_the_request_does_not_allow_is_not_sent() -> None:
    with pytest.raises(ValueError, match="the request allows 2"):
        chosen_arrays(chosen(), FORM.model_copy(update={"most": 2}))


def test_a_teacher_with_other_senses_refuses(
    dictionary: SenseDictionary, teacher: TeacherModel, tmp_path: Path
) -> None:
    some, mine = batch(), SenseRetriever(dictionary, senses(), WEIGHTED, 0)
    arrays, wanted, _ = request(some, "topk", mine.wanted)
    other = on_teacher(dictionary_in(tmp_path / "other", seed=1), senses())
    stranger, here = other.wanted.key, mine.wanted.key
    assert stranger.split(", ")[1] == here.split(", ")[1]
    with pytest.raises(
        ValueError, match=f"the student's senses are {here}, this teacher's are {stranger}"
    ):
        answer(teacher, arrays, wanted, other)
    with pytest.raises(ValueError, match="this teacher's are dictionary"):
        answer(teacher, arrays, wanted, on_teacher(dictionary, senses(kappa=3)))
    with pytest.raises(ValueError, match=r'this teacher has none: .*retrieve_on = "student"'):
        answer(teacher, arrays, wanted)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("targets", lambda a: a[:, 1:], "do not belong to input_ids"),
        ("targets", lambda a: a * 0 + V, "neither -100 nor within"),
        ("targets", lambda a: a * 0 - 1, "neither -100 nor within"),
        ("sample_keys", lambda a: a[1:], "do not belong to input_ids"),
        ("sample_keys", lambda a: a - 100, "non-negative"),
    ],
)
def test_a_request_whose_senses_make_no_sense_is_refused(
    dictionary: SenseDictionary, teacher: TeacherModel, name: str, change: Any, words: str
) -> None:
    able = on_teacher(dictionary, senses())
    arrays, wanted, _ = request(batch(), "topk", able.wanted)
    answer(teacher, arrays, wanted, able)
    with pytest.raises(ValueError, match=words):
        answer(teacher, arrays | {name: change(arrays[name])}, wanted, able)


def test_whatever_decides_the_choice_is_in_the_key(dictionary: SenseDictionary) -> None:
    def key(seed: int = 0, loss: LossSpec = WEIGHTED, **settings: Any) -> str:
        return SenseRetriever(dictionary, senses(**settings), loss, seed).wanted.key

    others: dict[str, Any] = {
        "candidates": "lexical",
        "kappa": 9,
        "num_related_words": 9,
        "num_neighbours": 9,
        "min_positions": 9,
        "min_teacher_probability": 0.9,
        "position_fraction": 0.9,
        "paper_exact": True,
        "index_search_effort": 99,
    }
    assert set(others) == set(DECIDING)
    keys = [
        key(),
        key(seed=1),
        key(loss=LossSpec()),
        *(key(**{name: value}) for name, value in others.items()),
    ]
    assert len(set(keys)) == len(keys)
    assert key(local_dir="/elsewhere", retrieve_on="teacher", num_senses=3) == keys[0]


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
@pytest.mark.parametrize("kind", ["topk", "sampled"])
def test_the_plan_counts_at_least_what_is_sent(
    dictionary: SenseDictionary, teacher: TeacherModel, candidates: str, kind: str
) -> None:
    """Bytes of chosen senses: a bound, which fully occupied sets meet."""
    spec = spec_of(kind)
    settings = senses(candidates=candidates, retrieve_on="teacher")
    spec = spec.model_copy(
        update={"senses": settings, "loss": spec.loss.model_copy(update={"sense_weight": 0.5})}
    )
    able, some = on_teacher(dictionary, settings), batch()
    share = len(able.select(some)) / some.input_ids.numel()
    arrays, wanted, _ = request(some, kind, able.wanted)
    promised = signal_bytes(spec, V, D, share, NUM_ROWS)
    found = answer(teacher, arrays, wanted, able)
    sent = (
        sum(
            array.nbytes
            for name, array in found.items()
            if name.startswith(("sense_", "pull_", "push_"))
        )
        / some.input_ids.numel()
    )
    assert 0.6 * promised.senses < sent <= promised.senses
    assert promised.hidden == 0
    assert (promised.top_k > 0) == (kind == "topk")
    asked = sum(array.nbytes for array in arrays.values())
    assert (
        promised.request * some.input_ids.numel() - 4 * 2 * 3
        <= asked
        <= promised.request * some.input_ids.numel() + 16 * 3
    )
    assert signal_bytes(spec, V, D, share, MANY_ROWS).senses > promised.senses
