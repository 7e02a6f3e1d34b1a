"""Where the teacher's signal comes from: what does not go together is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.spec import load_spec
from dskd_ds.spec.resume import changes_on_resume

BASE = "tests/base_run.toml"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.source=cache"], r"num_teachers = 1, but \[teacher\] source = \"cache\" asks no"),
        (
            [
                "teacher.source=cache",
                "topology.num_teachers=0",
                "train.on_policy_fraction=0.5",
                "train.on_policy_prompt_tokens=8",
                "train.on_policy_new_tokens=8",
            ],
            "on_policy_fraction = 0.5, but .* text that the student writes",
        ),
        (
            ["teacher.source=cache_or_live", "senses.retrieve_on=teacher"],
            "other ones in each epoch",
        ),
        (["teacher.source=disk"], "source"),
    ],
)
def test_what_a_cache_cannot_do_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_spec(BASE, overrides)


def test_a_cache_implies_forward_passes_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSKD_HOME", "/somewhere")
    live = load_spec(BASE).teacher
    assert not live.answers_by_block
    cached = load_spec(BASE, ["teacher.source=cache_or_live"]).teacher
    assert cached.answers_by_block
    assert Path(cached.cache_folder) == Path("/somewhere/signals")
    own = load_spec(BASE, ["teacher.cache_dir=$DSKD_HOME/x"]).teacher
    assert own.cache_folder == "/somewhere/x"


def test_the_source_may_change_on_resume_and_the_effect_is_named() -> None:
    before = load_spec(BASE, ["repair.steps=0"])
    now = load_spec(BASE, ["teacher.source=cache", "topology.num_teachers=0", "repair.steps=0"])
    changes = {change.key: change.mark for change in changes_on_resume(before, now)}
    assert changes["teacher.source"].may_change
    assert "bit for bit" in changes["teacher.source"].effect
    assert all(mark.may_change for mark in changes.values())
