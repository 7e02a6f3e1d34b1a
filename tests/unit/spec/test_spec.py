"""Shipped specs are valid; a wrong one gets a message with key, value, reason and way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dskd_ds.errors import ExitCode, InputError
from dskd_ds.spec import load_spec, spec_toml, write_spec
from dskd_ds.spec.load import read_toml
from dskd_ds.spec.shipped import RUN_SPECS, shipped_files

SHIPPED = [Path(name) for name in shipped_files(RUN_SPECS)]
BASE = "tests/base_run.toml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_spec_is_valid(path: Path) -> None:
    spec = load_spec(path)
    blocks_per_forward = spec.train.micro_batch_blocks * spec.topology.num_students
    assert spec.train.global_batch_blocks == spec.num_accumulation_steps * blocks_per_forward
    assert Path(spec.deepspeed).is_file()


def test_the_documented_specs_ship() -> None:
    assert {path.stem for path in SHIPPED} >= {
        "quickstart",
        "llama3_8b",
        "llama3_8b_kd",
        "mistral_7b",
        "mistral_7b_kd",
        "llama3_70b_to_8b",
    }


def test_importing_the_spec_loads_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'deepspeed'}"
    code = f"import sys, dskd_ds.spec; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_resolved_spec_reads_back_equal(tmp_path: Path) -> None:
    spec = load_spec(BASE, ["data.block_tokens=128", 'name="other"'])
    write_spec(spec, tmp_path / "spec.toml")
    assert load_spec(tmp_path / "spec.toml") == spec
    assert "block_tokens = 128" in spec_toml(spec)


def test_home_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSKD_HOME", raising=False)
    assert load_spec(BASE).teacher.model.startswith(str(Path.home()))
    monkeypatch.setenv("DSKD_HOME", "/elsewhere")
    assert load_spec(BASE).teacher.model.startswith("/elsewhere/")


def test_home_has_its_default_in_braces_and_leaves_other_names_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DSKD_HOME", raising=False)
    monkeypatch.setenv("DSKD_HOME_BIG", "/big")
    default = str(Path.home() / ".cache/dskd/x")
    for written, expected in (
        ("$DSKD_HOME/x", default),
        ("${DSKD_HOME}/x", default),
        ("$DSKD_HOME_BIG/x", "/big/x"),
    ):
        assert load_spec(BASE, [f"senses.dictionary={written}"]).senses.dictionary == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss.temprature=2"], ["[loss] temprature", "unknown key", "did you mean temperature?"]),
        (["train.lr=1"], ["[train] lr", "it belongs to [optimizer]"]),
        (["loss.temperature=-1"], ["[loss] temperature = -1", "greater than 0"]),
        (["loss.signal=full"], ["[loss] signal", '"full"', "topk"]),
        (["train.global_batch_blocks=3"], ["[train] global_batch_blocks = 3", "use 2 or 4"]),
        (["train.num_epochs=1"], ["[train] num_steps = 40, but num_epochs = 1.0 is given too"]),
        (["student.layers=list"], ["keep_layers"]),
        (["student.layers=first", "student.keep_layers=[1]"], ["no effect"]),
        (
            ["student.model=mine"],
            ['[student] layers = "by_impact"', "no effect if [student] model"],
        ),
        (["data.stream=true"], ['[student] layers = "by_impact"', "stream = true"]),
        (["link.dead_after_seconds=1"], ["three heartbeats"]),
        (
            ["senses.num_neighbours=200"],
            ["[senses] num_neighbours = 200", "index_search_effort = 150"],
        ),
        (["senses.min_senses=11"], ["[senses] min_senses = 11", "num_senses = 10 is the maximum"]),
        (
            ["senses.min_span_tokens=4"],
            ["[senses] min_span_tokens = 4", "max_span_tokens = 3", "use at most 3"],
        ),
        (
            ["senses.paper_exact=true"],
            [
                "[senses] paper_exact: unknown key",
                "replaced by one key per choice",
                "min_span_tokens = 2",
                'own_in_pull = "with_synonyms"',
                'own_in_push = "with_antonyms"',
                'positions = "independent"',
                'position_rounding = "down"',
            ],
        ),
        (
            ["loss.normalise=sequence"],
            ['[loss] normalise = "sequence"', "several documents", 'packing = "none"'],
        ),
        (
            ["data.packing=none", "train.on_policy_fraction=0.5"],
            ["[train] on_policy_fraction = 0.5", "the student writes into blocks"],
        ),
        (
            ["data.stream=true", "student.layers=first", "data.max_lost_fraction=0.01"],
            ["[data] max_lost_fraction = 0.01", "no known length"],
        ),
        (["loss.kd_weight=0", "loss.sense_weight=0"], ["no term of the loss uses the teacher"]),
        (["loss.signal=hidden"], ["[loss] kd_weight = 0.7", "a KL cannot be computed"]),
        (
            ["loss.signal=sampled", "loss.divergence=reverse"],
            ['[loss] divergence = "reverse"', "unbiased"],
        ),
        (
            ["senses.retrieve_on=teacher", "loss.signal=exact"],
            ['[senses] retrieve_on = "teacher"', "hidden states anyway", '"sampled"'],
        ),
        (
            ["senses.retrieve_on=teacher", "loss.signal=hidden", "loss.kd_weight=0"],
            ['[senses] retrieve_on = "teacher"', '"hidden" sends'],
        ),
        (["name=a b"], ['name = "a b", but it must match the pattern', "letters, digits"]),
        (["data.train=[]"], ["[data] train = [], but it must have at least 1 item, not 0"]),
        (
            ["senses.candidates=lexical", "senses.lexicons=[]"],
            ["[senses] candidates", "which words are related", "add a lexicon"],
        ),
        (
            ["topology.num_students=two"],
            ['[topology] num_students = "two", but it must be a whole number'],
        ),
        (["senses.kappa=2.5"], ["[senses] kappa = 2.5, but it must be a whole number"]),
        (["data.stream=maybe"], ['[data] stream = "maybe", but it must be true or false']),
        (["data.train=3"], ["[data] train = 3, but it must be a list", "[[data.train]]"]),
        (["train=3"], ["train = 3, but it must be a section"]),
        (["nonsense"], ["section.key=value"]),
        (
            ["student.layers=list", "student.keep_layers=[0, -1]"],
            [
                "[student] keep_layers[1] = -1, but it must be at least 0",
                "The layers that the student keeps",
            ],
        ),
        (["optimizer.betas=[0.9, 2.0]"], ["[optimizer] betas[1] = 2.0, but", "AdamW's betas"]),
        (["optimizer.betas=[0.9]"], ["[optimizer] betas[1] is missing", "AdamW's betas"]),
        (["data.train=[3]"], ["[data] train[0] = 3, but", "Sources of the training documents"]),
        (
            ['data.train=[{path="a", formt="text"}]'],
            ["[data.train.0] formt", "did you mean format?"],
        ),
        (
            ["optimizer.betas=[0.9, 1.0]"],
            ["[optimizer] betas[1] = 1.0, but it must be less than 1"],
        ),
        (
            ["link.credits=1025"],
            ["[link] credits = 1025, but it must be at most 1024"],
        ),
        ([f"seed={2**32}"], [f"seed = {2**32}, but it must be less than {2**32}"]),
    ],
)
def test_wrong_value_is_explained(overrides: list[str], expected: list[str]) -> None:
    with pytest.raises(InputError) as error:
        load_spec(BASE, overrides)
    assert error.value.exit_code == ExitCode.WRONG_INPUT
    for part in expected:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("signal", "kind", "is_valid"),
    [
        ("exact", "posterior", True),
        ("exact", "contrast", True),
        ("exact", "sense", False),
        ("hidden", "posterior", False),
    ],
)
def test_choosing_on_the_teacher_must_save_states(signal: str, kind: str, is_valid: bool) -> None:
    """States below the head may be saved where those of the head travel in any case."""
    overrides = [
        "senses.retrieve_on=teacher",
        f"loss.signal={signal}",
        f"loss.kd_weight={0 if signal == 'hidden' else 1}",
        f'loss.terms=[{{kind="{kind}",student_layer=1,weight=1.0,dictionary="d"}}]',
    ]
    if is_valid:
        spec = load_spec(BASE, overrides)
        assert spec.uses_senses
        assert spec.is_chosen_by_teacher(spec.loss.terms[0])
        return
    with pytest.raises(InputError, match="sends the student the hidden states anyway"):
        load_spec(BASE, overrides)


def test_missing_section_and_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "x"\nrun_dir = "y"\n')
    with pytest.raises(InputError, match=r"mine\.toml: teacher is missing"):
        load_spec(path)
    with pytest.raises(InputError, match=r"did you mean .*mine\.toml"):
        load_spec(tmp_path / "mime.toml")
    path.write_text("name = ")
    with pytest.raises(InputError, match=r"not a TOML file: (.|\n)*dskd init"):
        load_spec(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}: this file cannot be read: Is a directory"):
        read_toml(tmp_path)


def test_all_broken_rules_are_reported_together() -> None:
    with pytest.raises(InputError) as error:
        load_spec(BASE, ["train.global_batch_blocks=3", "link.dead_after_seconds=1"])
    assert "global_batch_blocks" in str(error.value)
    assert "dead_after_seconds" in str(error.value)
