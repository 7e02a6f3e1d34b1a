"""[[teachers]]: which of them a source names, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.spec.load import spec_toml
from dskd_ds.spec.resume import changes_on_resume
from dskd_ds.spec.teachers import teacher_of_number

BASE = "tests/base_run.toml"
SOURCES = (
    'data.train=[{path="a.jsonl", weight=3}, {path="b.jsonl", weight=1, teacher="code"},'
    ' {path="c.jsonl", weight=1, teacher="law"}]'
)
TEACHERS = 'teachers=[{name="code", model="coder", replicas=2}, {name="law", model="lawyer"}]'
ROUTED = ("repair.steps=0", SOURCES, TEACHERS, "topology.num_teachers=4")


def routed(*overrides: str) -> RunSpec:
    return load_spec(BASE, [*ROUTED, *overrides])


def test_the_first_numbers_are_those_of_further_teachers() -> None:
    spec = routed()
    assert spec.num_further_teachers == 3
    names = [teacher_of_number(spec.teachers, number) for number in range(6)]
    assert names == ["code", "code", "law", "main", "main", "main"]
    assert teacher_of_number((), 0) == "main"


def test_a_spec_is_written_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "again.toml").write_text(spec_toml(routed()))
    assert load_spec(tmp_path / "again.toml") == routed()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            'teachers=[{name="code", model="x"}, {name="code", model="y"}]',
            r'\[teachers\.1\] name = "code", but another teacher has this name',
        ),
        ('teachers=[{name="main", model="x"}]', "that of \\[teacher\\] is main"),
        (
            TEACHERS.replace("]", ', {name="idle", model="z"}]'),
            'name = "idle", but no source of \\[data\\] train names this teacher',
        ),
        (
            'teachers=[{name="code", model="x"}]',
            r'\[data\.train\.2\] teacher = "law", but \[\[teachers\]\] has no teacher of this name'
            r"\.\n  use one of: main, code;",
        ),
        (
            'data.heldout=[{path="h.jsonl", teacher="code"}]',
            r"\[data\.heldout\.0\] teacher = \"code\", but only the sources of \[data\] train",
        ),
        (
            SOURCES.replace("weight=3", "").replace(", weight=1", "").replace(", }", "}"),
            "no block may hold text of two sources",
        ),
        ("teacher.source=cache_or_live", r"the signal of \[\[teachers\]\] is not kept"),
        ("loss.signal=exact", "students can use only top k or draws of several teachers"),
        ("loss.kd_weight=0", "serve the KL term only"),
        ('loss.terms=[{kind="mse", student_layer=3, weight=1.0}]', "have other layers"),
        ("senses.retrieve_on=teacher", "not every teacher can open the index"),
        (
            "topology.num_teachers=3",
            r"num_teachers = 3, but the replicas of \[\[teachers\]\] are 3 of them.*\n"
            r"  set \[topology\] num_teachers = 4 or more, or 0",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        routed(override)


def test_teachers_of_a_step_of_their_own_need_no_number() -> None:
    assert routed("topology.num_teachers=0").topology.num_ranks == 2


def test_only_the_number_of_replicas_may_change_on_resume() -> None:
    more = routed(TEACHERS.replace("replicas=2", "replicas=1"))
    (change,) = changes_on_resume(routed(), more)
    assert (change.key, change.mark.may_change) == ("teachers.0.replicas", True)
    other = routed(TEACHERS.replace('model="coder"', 'model="coder", weight=2.0'))
    (change,) = changes_on_resume(routed(), other)
    assert (change.key, change.mark.may_change) == ("teachers.0.weight", False)
    fewer_sources = SOURCES.replace(', {path="c.jsonl", weight=1, teacher="law"}', "")
    fewer = routed(fewer_sources, 'teachers=[{name="code", model="coder"}]')
    changes = {change.key: change.mark.may_change for change in changes_on_resume(routed(), fewer)}
    assert changes == {"teachers": False, "data.train": False}
