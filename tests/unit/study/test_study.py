"""Study files, the runs they stand for, and what is made of finished runs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dskd_ds.commands import cli
from dskd_ds.evaluation.items import ItemScores, items_path, write_items
from dskd_ds.study.kept_scores import keep_scores
from dskd_ds.study.outcome import outcome_of
from dskd_ds.study.results import Result, write_result
from dskd_ds.study.runs import Run, first_of_each_dictionary, study_runs
from dskd_ds.study.spec import all_arms, filled, load_study, override
from dskd_ds.study.table import draw_grid, markdown

NUM_DOCUMENTS, DOCUMENT_TOKENS = 60, 10


def study_file(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(
        'name = "trial"\n'
        'base = "tests/base_run.toml"\n'
        f'folder = "{tmp_path / "study"}"\n'
        f"seeds = [0, 1, 2]\n{body}"
    )
    return path


ARMS = """
[settings]
"train.num_steps" = 7
[arms.kd]
"loss.sense_weight" = 0.0
[arms.dskd]
[grid]
"senses.num_senses" = [4, 8]
"loss.pull" = [0.5, 1.0]
"""


def test_every_arm_runs_with_every_seed(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, ARMS))
    assert list(all_arms(study)) == [
        "kd",
        "dskd",
        "num_senses=4,pull=0.5",
        "num_senses=4,pull=1.0",
        "num_senses=8,pull=0.5",
        "num_senses=8,pull=1.0",
    ]
    runs = study_runs(study)
    assert len(runs) == 18
    assert [run.seed for run in runs[:6]] == [0] * 6  # each arm once, before any second seed
    for run in runs:
        assert run.spec.seed == run.seed
        assert run.spec.train.num_steps == 7
        assert Path(run.spec.run_dir) == tmp_path / "study" / "runs" / run.name
    assert runs[0].spec.loss.sense_weight == 0
    assert runs[3].spec.loss.pull == 1.0
    assert runs[4].spec.senses.num_senses == 8


def test_runs_share_what_does_not_depend_on_their_settings(tmp_path: Path) -> None:
    runs = study_runs(load_study(study_file(tmp_path, ARMS)))
    base = runs[1].spec.senses.dictionary  # the arm without overrides keeps the base's dictionary
    dictionaries = {run.arm: run.spec.senses.dictionary for run in runs}
    assert dictionaries["num_senses=4,pull=0.5"] == dictionaries["num_senses=4,pull=1.0"] != base
    assert len({run.cut_key for run in runs}) == 1
    firsts = first_of_each_dictionary(runs)
    assert "kd" not in [run.arm for run in firsts]  # it uses no senses
    assert len(firsts) == len({run.spec.senses.dictionary for run in runs if run.arm != "kd"})


def test_rules_of_the_lexicon_need_a_dictionary_of_their_own(tmp_path: Path) -> None:
    body = '[arms.a]\n[arms.b]\n"senses.conflicts" = "keep"\n[arms.c]\n"senses.kappa" = 2\n'
    study = load_study(study_file(tmp_path, body))
    found = {run.arm: run.spec.senses.dictionary for run in study_runs(study)}
    assert found["a"] == found["c"] != found["b"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "there is none"),
        ("[arms.a]\nseed = 3\n", "[arms.a] seed = 3, but the study sets it for each run"),
        ('reference = "b"\n[arms.a]\n', 'reference = "b", but there is no such arm'),
        ("sedes = [1]\n[arms.a]\n", "sedes: unknown key.\n  did you mean seeds?"),
        ('[arms."a/b"]\n', "an arm's name is part of file names"),
        ('[arms.a]\n"loss.pul" = 1.0\n', "arm a: "),
        ('select = "bleu"\n[arms.a]\n', 'select = "bleu", but '),
        ('select = "margin"\n[arms.a]\n', 'select = "margin", but '),
        (
            'baselines = true\n[arms.a]\n[cost]\narm = "a"\n',
            '[cost] arm = "a", but it is the reference',
        ),
        ('[arms.a]\n[controls]\na = ["b"]\n', '[controls] a = "b", but there is no such arm'),
        ('[arms.a]\n[controls]\nb = ["a"]\n', '[controls] b = "b", but there is no such arm'),
        ('[arms.a]\n[controls]\na = ["a"]\n', "an arm is no control of itself"),
    ],
)
def test_a_wrong_study_is_refused(
    tmp_path: Path, body: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", str(study_file(tmp_path, body)), "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_the_plan_lists_runs_and_what_they_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study_file(tmp_path, ARMS)
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "18 runs, 18 to do, 1 at a time" in printed
    assert "dictionaries: 3" in printed
    assert "unknown until one run has finished" in printed
    runs = study_runs(load_study(path))
    finish(runs[0], tmp_path / "study", shift=0.0)
    assert cli.main(["sweep", str(path), "--dry-run", "--jobs", "2"]) == 0
    assert "time: about 8.5 h" in capsys.readouterr().out  # 17 runs of 3,600 s, two at a time


def finish(run: Run, folder: Path, shift: float) -> None:
    """Leave what a finished run leaves; its student is worse by `shift` nats."""
    random = np.random.default_rng(run.seed)
    text = np.random.default_rng(9).exponential(1.0, NUM_DOCUMENTS * DOCUMENT_TOKENS)
    kl = text + shift + 0.01 * random.standard_normal() + 0.05 * random.standard_normal(len(text))
    scores = ItemScores(
        task="heldout",
        model="after",
        digest="text",
        clusters=np.repeat(np.arange(NUM_DOCUMENTS), DOCUMENT_TOKENS),
        values={"cross_entropy": kl + 1, "kl": kl},
    )
    run_dir = Path(run.spec.run_dir)
    write_items(scores, items_path(run_dir, "heldout", "after"))
    result = Result(
        arm=run.arm,
        seed=run.seed,
        settings=run.settings,
        overrides=run.overrides,
        seconds={"train": 3000.0, "eval": 600.0},
        scores={},
        last_record={"step": 7.0},
        kept=keep_scores(run_dir, ["after"], ["heldout"]),
    )
    write_result(folder, result, run)


def test_the_best_arm_is_chosen_on_dev_and_reported_on_test(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, ARMS))
    runs = study_runs(study)
    for run in runs:
        finish(run, tmp_path / "study", shift=-0.2 if run.arm == "num_senses=8,pull=0.5" else 0.0)
    outcome = outcome_of(study, runs)
    assert outcome.best == "num_senses=8,pull=0.5"
    by_arm = {(result.group, result.metric.key): result for result in outcome.comparisons}
    best = by_arm["num_senses=8,pull=0.5", "kl"]
    assert best.verdict == "better"
    assert best.difference.num_seeds == 3
    assert by_arm["dskd", "kl"].verdict == "no difference shown"
    table = markdown(study, outcome, planned=18)
    assert "18 of 18 runs are done" in table
    assert "**Best arm on dev: num_senses=8,pull=0.5.** On test, against kd: better" in table
    picture = draw_grid(study, outcome, tmp_path)
    assert picture is not None
    assert picture.stat().st_size > 5000


CONTROLLED = """
dev_share = 0.0
[controls]
senses = ["shuffled"]
states = ["shuffled", "late"]
[arms.kl]
[arms.senses]
"loss.pull" = 0.1
[arms.shuffled]
"loss.pull" = 0.2
[arms.states]
"loss.pull" = 0.3
[arms.late]
"loss.pull" = 0.4
"""


def test_an_arm_is_compared_with_its_controls(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, CONTROLLED))
    runs = study_runs(study)
    shifts = {"senses": -0.2, "shuffled": -0.2, "states": -0.4}
    finished = [run for run in runs if run.arm != "late" and run.name != "shuffled-2"]
    for run in finished:
        finish(run, tmp_path / "study", shift=shifts.get(run.arm, 0.0))
    outcome = outcome_of(study, runs)
    pairs = {
        (result.group, result.reference): result
        for result in outcome.controls
        if result.metric.key == "kl"
    }
    # Nothing of `late` has finished, and `shuffled` lacks the third seed.
    assert list(pairs) == [("senses", "shuffled"), ("states", "shuffled")]
    assert pairs["states", "shuffled"].difference.num_seeds == 2
    assert pairs["states", "shuffled"].verdict == "better"
    table = markdown(study, outcome, planned=len(runs))
    assert "- **senses**: not shown to be better in kl than shuffled." in table
    assert "- **states**: better in kl than kl and shuffled; not yet compared with late." in table
    assert "dev" not in table


@pytest.mark.parametrize("path", sorted(Path("ds_configs/studies").glob("*.toml")), ids=str)
def test_shipped_studies_are_valid(path: Path) -> None:
    study = load_study(path)
    runs = study_runs(study)
    assert len(runs) == len(all_arms(study)) * len(study.seeds)
    arms = [run for run in runs if run.seed == study.seeds[0]]
    # An arm that equals another one measures nothing but noise.
    same: dict[str, object] = {"run_dir": "", "name": ""}
    contents = {run.spec.model_copy(update=same).model_dump_json() for run in arms}
    assert len(contents) == len(arms)


@pytest.mark.parametrize(
    "value",
    [
        3,
        0.5,
        True,
        'a, "b"]\n',
        ["x", "y"],
        [],
        [[1, 2], [3]],
        [{"kind": "cosine", "decay": [0.5, 1.0]}, {"kind": "mse", "weight": 1.0}],
    ],
)
def test_a_setting_is_one_line_that_means_the_same(value: Any) -> None:
    text = override("key", value)
    assert "\n" not in text
    assert tomllib.loads(text) == {"key": value}


@pytest.mark.parametrize("name", ["below_the_head", "below_the_head_2", "below_the_head_15"])
def test_the_study_below_the_head_has_its_arms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each term has the layer of its dictionary: 11 of 20 is the teacher's 21, 9 of 15 its 23."""
    monkeypatch.setenv("DSKD_HOME", "/nowhere")
    study = load_study(f"tools/studies/{name}.toml")
    runs = [run for run in study_runs(study) if run.seed == 0]
    assert len(runs) == len(all_arms(study))
    made = {filled(stage.makes[0], study) for stage in study.prepare}
    for run in runs:
        kept = [*run.spec.student.keep_layers, 30]
        for term in run.spec.loss.terms:
            if term.dictionary is not None:
                layer = kept[term.student_layer]
                assert term.dictionary.endswith(f"senses-{layer}"), run.name
                assert f"{term.dictionary}/manifest.json" in made
