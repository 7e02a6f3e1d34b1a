"""`dskd paper --check`: the shipped recipes pass, and every changed key is listed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dskd_ds.commands.cli import main
from dskd_ds.plan.paper_check import BACKBONES, MISSING, backbone_of, check_paper, value_of
from dskd_ds.plan.paper_facts import FACTS, Backbone, Fact
from dskd_ds.plan.paper_remarks import DELIBERATE, UNKNOWN
from dskd_ds.spec import RunSpec, load_spec

RECIPES = {
    f"ds_configs/paper/{backbone}{arm}.toml": backbone
    for backbone in BACKBONES
    for arm in ("", "_kd")
}


@pytest.mark.parametrize(("path", "backbone"), RECIPES.items())
def test_the_recipes_deviate_nowhere(path: str, backbone: Backbone) -> None:
    spec = load_spec(path)
    assert backbone_of(spec) == backbone
    found = check_paper(spec, backbone)
    assert not found.deviations
    assert found.deliberate == list(DELIBERATE)
    asked = [remark for remark in UNKNOWN if spec.uses_senses or not remark.needs_senses]
    assert [remark.about for remark in found.unknown][: len(asked)] == [
        remark.about for remark in asked
    ]
    assert all(remark.here for remark in found.unknown)


def test_the_reference_runs_differ_in_the_sense_term_only() -> None:
    for backbone in BACKBONES:
        spec, reference = (
            load_spec(f"ds_configs/paper/{backbone}{arm}.toml").model_dump() for arm in ("", "_kd")
        )
        assert reference["loss"].pop("sense_weight") == 0
        assert spec["loss"].pop("sense_weight") > 0
        for key in ("name", "run_dir"):
            assert spec.pop(key) != reference.pop(key)
        assert spec == reference


def other_value(value: Any) -> Any:
    """A value of the same kind that is not the authors'."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return value[:-1]
    return f"{value}, another"


def changed(tree: Any, keys: list[str], value: Any) -> Any:
    """Return a copy of a frozen model with one nested value changed, unvalidated."""
    name, *rest = keys
    inner = changed(getattr(tree, name), rest, value) if rest else value
    return tree.model_copy(update={name: inner})


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.key)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_changed_key_is_listed_with_both_values(fact: Fact, backbone: Backbone) -> None:
    spec = load_spec(f"ds_configs/paper/{backbone}.toml")
    wrong = _with_another_value(spec, fact.key)
    found = check_paper(wrong, backbone).deviations
    listed = {deviation.key: deviation for deviation in found}
    # A missing [recipe] would list all of its keys; a changed one lists itself.
    assert set(listed) == {fact.key}
    deviation = listed[fact.key]
    assert deviation.here == value_of(wrong, fact.key)
    assert deviation.authors == getattr(fact.authors, backbone)
    assert deviation.effect


def _with_another_value(spec: RunSpec, key: str) -> RunSpec:
    """Change the settings that a key stands for."""
    lexicons = spec.senses.lexicons
    first = spec.data.train[0]
    derived: dict[str, tuple[list[str], Any]] = {
        "optimizer.peak_lr": (["optimizer", "scale_lr_by_ranks"], True),
        "data.train.format": (["data", "train"], (first.model_copy(update={"format": "text"}),)),
        "data.train.supervise": (
            ["data", "train"],
            (first, first.model_copy(update={"supervise": "completions"})),
        ),
        "senses.corpus": (["senses", "corpus"], spec.senses.corpus[:1]),
        "senses.lexicon_kinds": (["senses", "lexicons"], lexicons[:1]),
        "senses.wiktextract_lists": (
            ["senses", "lexicons"],
            (lexicons[0].model_copy(update={"lists": "all"}), lexicons[1]),
        ),
        "senses.has_morpholex": (["senses", "morpholex"], None),
    }
    keys, value = derived.get(key, (key.split("."), None))
    if key not in derived:
        value = other_value(value_of(spec, key))
    result: RunSpec = changed(spec, keys, value)
    return result


def test_the_reference_run_is_not_asked_for_senses() -> None:
    spec = load_spec("ds_configs/paper/llama3_8b_kd.toml", ["senses.kappa=9"])
    assert not check_paper(spec, "llama3_8b").deviations
    unknown = check_paper(spec, "llama3_8b").unknown
    assert unknown[-1].about == "optimizer.peak_lr"


def test_a_teacher_in_a_folder_is_the_same_teacher() -> None:
    path = "ds_configs/paper/llama3_8b.toml"
    spec = load_spec(path, ["teacher.model=/models/meta-llama-3-8b-instruct"])
    keys = {deviation.key for deviation in check_paper(spec, "llama3_8b").deviations}
    assert "teacher.model" not in keys


def test_the_command_says_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    path = "ds_configs/paper/mistral_7b_kd.toml"
    assert main(["paper", "--check", path]) == 0
    assert "compared with the paper's run mistral_7b: 0 deviations" in capsys.readouterr().out
    argv = ["paper", "--check", path, "--set", "optimizer.max_grad_norm=1.0"]
    assert main(argv) == 1
    text = capsys.readouterr().out
    assert "optimizer.max_grad_norm = 1.0, the authors: 0.0" in text
    assert "large gradients are clipped" in text
    assert main([*argv, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [deviation["key"] for deviation in found["deviations"]] == ["optimizer.max_grad_norm"]
    assert main([*argv, "--run", "llama3_8b", "--json"]) == 1
    keys = [entry["key"] for entry in json.loads(capsys.readouterr().out)["deviations"]]
    assert "student.attention_dropout" in keys


def test_a_spec_without_a_recipe_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "--check", "tests/base_run.toml"]) == 1
    assert f"recipe.style = {MISSING}" in capsys.readouterr().out


def test_the_facts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert len({fact.key for fact in FACTS}) == len(FACTS)
    assert main(["paper"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["optimizer.peak_lr", "0.00015", "6e-05"] for line in lines)
    assert main(["paper", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(FACTS)
