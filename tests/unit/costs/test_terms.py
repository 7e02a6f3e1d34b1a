"""What the plan says of losses below the head: bytes, against a teacher's replies, and time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dskd_ds.costs.clusters import open_cluster
from dskd_ds.costs.constants import DEFAULT
from dskd_ds.costs.dictionary_size import rows_of_dictionary
from dskd_ds.costs.time import sense_seconds
from dskd_ds.costs.traffic import plan_line, signal_bytes
from dskd_ds.costs.work import step_work, teacher_work
from dskd_ds.models.named import RunModels
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.unit.costs.test_time import SHAPE
from tests.unit.senses.choose import small
from tests.unit.senses.choose.small import D, V
from tests.unit.teacher.candidate_requests import (
    LAYER,
    layered_teacher,
    on_teacher,
    reply_to,
    run_of,
    student_of,
)


@pytest.mark.parametrize("candidates", ["lexical", "neighbours", "hybrid"])
@pytest.mark.parametrize("kinds", [("posterior",), ("posterior", "contrast", "cosine")])
def test_the_plan_counts_candidates_below_the_head(
    tmp_path: Path, candidates: str, kinds: tuple[str, ...]
) -> None:
    """A bound, which full sets reach; and only the cosine's layer costs states."""
    dictionary = small.dictionary_in(tmp_path / "senses", layer=LAYER)
    terms = [(kind, {"teacher_layer": LAYER}) for kind in kinds]
    spec = run_of(*terms, candidates=candidates)
    teacher = layered_teacher()
    promised = signal_bytes(
        spec, small.V, small.D, 0.0, num_term_rows=rows_of_dictionary(str(dictionary.folder))
    )
    student = student_of(dictionary, spec, has_index=False)
    request = student.request(small.batch())
    reply = reply_to(request, teacher, on_teacher(dictionary, spec))

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


@pytest.mark.parametrize(("where", "choices"), [("student", (2, 0)), ("teacher", (0, 1))])
def test_choosing_takes_time_on_the_side_that_chooses(where: str, choices: tuple[int, int]) -> None:
    """Students choose for each term, a teacher once for both."""
    spec = run_of(("posterior", {}), ("contrast", {}), retrieve_on=where)
    work = step_work(spec, SHAPE, teacher_width=4096, zero_stage=3)
    teacher = teacher_work(spec, SHAPE, bytes_per_token=1.0)
    assert (work.candidate_sets, teacher.sense_share) == choices

    cluster = open_cluster("h100-80")
    once = replace(work, candidate_sets=0, sense_share=1.0, retrieves_senses=True)
    seconds = [sense_seconds(one, cluster, DEFAULT) for one in (work, once)]
    assert seconds[0] == pytest.approx(choices[0] * seconds[1])
