"""The bytes that the plan promises for chosen senses, against what a teacher sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.costs.dictionary_size import MANY_ROWS, rows_of_dictionary
from dskd_ds.costs.traffic import plan_line, signal_bytes
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.named import RunModels
from dskd_ds.senses.choose.on_teacher import TeacherSenses
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import load_spec
from dskd_ds.teacher.answer import answer
from tests.conftest import TinyWorld
from tests.unit.conftest import D, V, senses
from tests.unit.senses.choose import small
from tests.unit.teacher.candidate_requests import LAYER, reply_to, run_of, student_of
from tests.unit.teacher.candidate_requests import on_teacher as candidates_on_teacher
from tests.unit.teacher.sense_requests import (
    NUM_ROWS,
    batch,
    on_teacher,
    sense_request,
    spec_with_senses,
)
from tests.unit.teacher.three_layers import three_layer_teacher


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
@pytest.mark.parametrize("kind", ["topk", "sampled"])
def test_the_plan_counts_at_least_what_is_sent(
    dictionary: SenseDictionary, teacher: FrozenModel, candidates: str, kind: str
) -> None:
    """Bytes of chosen senses: a bound, which full sets reach."""
    settings = senses(candidates=candidates, retrieve_on="teacher")
    spec = spec_with_senses(kind, settings)
    retriever = on_teacher(dictionary, settings)
    num_tokens = batch().input_ids.numel()
    share = len(retriever.select(batch())) / num_tokens
    promised = signal_bytes(spec, V, D, share, NUM_ROWS)

    request = sense_request(batch(), kind, retriever.wanted)
    reply = answer(teacher, request.arrays, request.wanted, TeacherSenses(retriever))
    sense_arrays = [
        array for name, array in reply.items() if name.startswith(("sense_", "pull_", "push_"))
    ]
    sent = sum(array.nbytes for array in sense_arrays) / num_tokens
    assert 0.6 * promised.senses < sent <= promised.senses
    assert promised.hidden == 0
    assert (promised.top_k > 0) == (kind == "topk")

    request_bytes = sum(array.nbytes for array in request.arrays.values())
    difference = request_bytes - promised.request * num_tokens
    assert -4 * 2 * 3 <= difference <= 16 * 3
    assert signal_bytes(spec, V, D, share, MANY_ROWS).senses > promised.senses


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
@pytest.mark.parametrize("kinds", [("posterior",), ("posterior", "contrast", "cosine")])
def test_the_plan_counts_candidates_below_the_head(
    tmp_path: Path, candidates: str, kinds: tuple[str, ...]
) -> None:
    """A bound, which full sets reach; and only the cosine's layer costs states."""
    dictionary = small.dictionary_in(tmp_path / "senses", layer=LAYER)
    terms = [(kind, {"teacher_layer": LAYER}) for kind in kinds]
    spec = run_of(*terms, candidates=candidates)
    teacher = three_layer_teacher()
    promised = signal_bytes(
        spec, small.V, small.D, 0.0, num_term_rows=rows_of_dictionary(str(dictionary.folder))
    )
    student = student_of(dictionary, spec, has_index=False)
    request = student.request(small.batch())
    reply = reply_to(request, teacher, candidates_on_teacher(dictionary, spec))

    num_targets = len(request.batch.supervised)

    def sent(beginning: str) -> float:
        found = [array.nbytes for name, array in reply.items() if name.startswith(beginning)]
        return sum(found) / num_targets

    assert 0.6 * promised.candidates < sent("candidate_") <= promised.candidates
    assert sent("layer_") == promised.layers == (2 * small.D if "cosine" in kinds else 0)
    num_tokens = request.batch.input_ids.numel()
    request_bytes = sum(array.nbytes for array in request.arrays.values())
    without_target = num_tokens - num_targets
    difference = promised.request * num_tokens - request_bytes
    assert -16 * len(request.batch.samples) <= difference <= 2 * 4 * without_target


def test_states_travel_unless_the_teacher_chooses() -> None:
    by_student = signal_bytes(run_of(("posterior", {}), retrieve_on="student"), V, D, 0.0)
    assert (by_student.layers, by_student.candidates) == (2 * D, 0)
    smoothed = signal_bytes(run_of(("cosine", {"smoothing": 0.5}), ("sense", {})), V, D, 0.0)
    assert (smoothed.layers, smoothed.candidates) == (2 * D, 0)
    other = ("contrast", {"student_layer": 2, "dictionary": "other"})
    two = signal_bytes(run_of(("posterior", {}), other), V, D, 0.0)
    one = signal_bytes(run_of(("posterior", {})), V, D, 0.0)
    assert two.candidates == 2 * one.candidates > 0


def test_the_dry_run_says_what_travels(tmp_path: Path, tiny: TinyWorld) -> None:
    folder = small.dictionary_in(tmp_path / "senses", layer=LAYER).folder
    term = f'{{kind="posterior",student_layer=1,weight=1.0,dictionary="{folder}"}}'
    overrides = [f"loss.terms=[{term}]", "loss.sense_weight=0.0"]
    lines = {
        where: plan_line(spec, RunModels.of(spec).teacher)
        for where in ("student", "teacher")
        for spec in [load_spec(tiny.spec_file, [*overrides, f"senses.retrieve_on={where}"])]
    }
    assert " + states below the head = " in lines["student"]
    assert " + numbers and distances of senses below the head = " in lines["teacher"]
    assert "states" not in lines["teacher"]
