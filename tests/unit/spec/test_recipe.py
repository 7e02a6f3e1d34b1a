"""[recipe]: its keys, its rules, and that a run may be resumed with another one."""

from __future__ import annotations

import pytest

from dskd_ds.errors import InputError
from dskd_ds.spec import load_spec
from dskd_ds.spec.resume import changes_on_resume

BASE = "tests/base_run.toml"


@pytest.mark.parametrize(
    ("overrides", "phrases"),
    [
        (
            ['recipe.system_turn="none"'],
            ['[recipe] system_turn = "none"', 'no effect with style = "lettered"'],
        ),
        (
            ["recipe.top_p=0.9"],
            ["[recipe] top_p = 0.9", "temperature = 0 always takes the likeliest token"],
        ),
        (['recipe.mmlu.split="test"'], ["[recipe.mmlu] path = (not given)", "belong to a path"]),
        (['recipe.sets=["cqsa"]'], ["[recipe] sets", "'csqa'"]),
        (["recipe.stile=1"], ["[recipe] stile: unknown key", "did you mean style?"]),
        (["recipe.mmlu.new_tokens=0"], ["[recipe.mmlu] new_tokens = 0", "must be greater than 0"]),
    ],
)
def test_a_wrong_recipe_is_explained(overrides: list[str], phrases: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_spec(BASE, overrides)
    for phrase in phrases:
        assert phrase in str(caught.value)


def test_numbers_of_new_tokens_by_set() -> None:
    recipe = load_spec(BASE, ["recipe.new_tokens=1", "recipe.squad.new_tokens=10"]).recipe
    assert recipe is not None
    assert [recipe.new_tokens_of(name) for name in ("csqa", "squad", "")] == [1, 10, 1]


def test_a_run_may_be_resumed_with_another_recipe_or_none() -> None:
    without, one, two = (
        load_spec(BASE, overrides) for overrides in ([], ["recipe.epochs=1"], ["recipe.epochs=2"])
    )
    for before, now in ((without, one), (one, without), (one, two)):
        changes = changes_on_resume(before, now)
        assert changes
        assert all(change.mark.may_change for change in changes)
    assert not changes_on_resume(without, without)
