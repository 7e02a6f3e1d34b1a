"""The paper's table of a small study whose scores are made up, but on real files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dskd_ds.bench.cost import inference_figure
from dskd_ds.bench.measure import as_json
from dskd_ds.commands.paper_report import write_report
from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import ItemScores, items_path, write_items
from dskd_ds.study.cost import COST_FILE, measure_cost, read_cost
from dskd_ds.study.kept_scores import restore_missing
from dskd_ds.study.one_run import measure_baselines
from dskd_ds.study.outcome import outcome_of
from dskd_ds.study.paper_table import baseline_groups, chance_of, counted_tasks, tables
from dskd_ds.study.results import Result, asked_of, read_result, write_result
from dskd_ds.study.runs import Run, baseline_run, study_runs
from dskd_ds.study.spec import CostSpec, StudySpec, load_study
from tests.unit.study.test_study import study_file

BODY = """
dev_share = 0.0
baselines = true
[seeds_of]
ours = [0]
[tasks]
names = ["quartz", "logiqa"]
[arms.kd]
"loss.sense_weight" = 0.0
[arms.dskd]
[arms.ours]
"loss.sense_weight" = 0.2
"""
NUM_QUESTIONS = 120


def leave_scores(run_dir: Path, model: str, kl: float, accuracy: dict[str, float]) -> None:
    """Leave what `dskd eval` leaves of a model."""
    random = np.random.default_rng([len(model), round(kl * 1000)])
    difficulty = np.random.default_rng(5).exponential(1.0, NUM_QUESTIONS)
    text = np.maximum(kl + 0.1 * difficulty + 0.01 * random.standard_normal(NUM_QUESTIONS), 0)
    clusters = np.arange(NUM_QUESTIONS)
    heldout = ItemScores(
        "heldout", model, "text", clusters, {"cross_entropy": text + 1, "kl": text}
    )
    write_items(heldout, items_path(run_dir, "heldout", model))
    for task, share in accuracy.items():
        right = (np.arange(NUM_QUESTIONS) < share * NUM_QUESTIONS).astype(float)
        margin = 4 * right - 2 - kl + 0.01 * random.standard_normal(NUM_QUESTIONS)
        scores = ItemScores(task, model, task, clusters, {"accuracy": right, "margin": margin})
        write_items(scores, items_path(run_dir, task, model))


def finish(study: StudySpec, run: Run, kl: float) -> None:
    leave_scores(Path(run.spec.run_dir), "after", kl, {"quartz": 0.55, "logiqa": 0.25})
    result = Result(
        arm=run.arm,
        seed=run.seed,
        settings=run.settings,
        overrides=run.overrides,
        seconds={"train": 100.0, "eval": 10.0, "tasks": 20.0},
        scores={},
        last_record={"step": 7.0, "rss_bytes": 2e9},
    )
    write_result(Path(study.folder), result, run)


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    """A study of which all runs have finished; quartz has two choices, logiqa four."""
    found = load_study(study_file(tmp_path, BODY))
    folder = Path(baseline_run(found).spec.run_dir)
    leave_scores(folder, "teacher", 0.0, {"quartz": 0.56, "logiqa": 0.28})
    leave_scores(folder, "before", 0.9, {"quartz": 0.5, "logiqa": 0.2})
    (folder / "harness").mkdir()
    for task, labels in (("quartz", "AB"), ("logiqa", "ABCD")):
        line = json.dumps({"labels": list(labels)})
        (folder / "harness" / f"{task}.jsonl").write_text(f"{line}\n" * 3)
    for run in study_runs(found):
        means = {"kd": 0.5, "dskd": 0.4, "ours": 0.45}
        finish(found, run, means[run.arm] + 0.002 * run.seed)
    return found


def test_an_arm_can_have_seeds_of_its_own(study: StudySpec) -> None:
    names = [run.name for run in study_runs(study)]
    assert names == ["kd-0", "dskd-0", "ours-0", "kd-1", "dskd-1", "kd-2", "dskd-2"]


def test_accuracy_counts_only_where_the_teacher_beats_chance(study: StudySpec) -> None:
    assert chance_of(study, "quartz") == 0.5
    assert chance_of(study, "logiqa") == 0.25
    assert counted_tasks(study) == ["quartz"]  # 0.56 beats 0.55; 0.28 does not reach 0.30


def test_the_baselines_result_keeps_what_chance_is(study: StudySpec) -> None:
    run = baseline_run(study)
    folder = Path(run.spec.run_dir)
    stages: Any = SimpleNamespace(
        study=study, folder=Path(study.folder), call=lambda *_: 1.0, is_stopping=False
    )
    measure_baselines(stages, run)
    shutil.rmtree(folder)
    result = read_result(study, run)
    assert result is not None
    restore_missing(result, folder)
    assert counted_tasks(study) == ["quartz"]
    # A result of an earlier version does not say it.
    write_result(Path(study.folder), replace(result, chances={}), run)
    assert counted_tasks(study) == []
    found = {table.title: table for table in tables(study, baseline_groups(study), [])}
    assert [row[:3] for row in found["Accuracy"].rows] == [
        ("quartz", "-", "unknown"),
        ("logiqa", "-", "unknown"),
    ]


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({"limit": 5}, True),
        ({"names": ("quartz",)}, True),
        ({"batch_size": 2, "data_dir": "elsewhere"}, False),
    ],
)
def test_results_of_other_tasks_do_not_mix(
    study: StudySpec, changes: dict[str, Any], is_refused: bool
) -> None:
    run = study_runs(study)[0]
    assert study.tasks is not None
    changed = study.model_copy(update={"tasks": study.tasks.model_copy(update=changes)})
    old = read_result(changed, run)  # it does not say which tasks the study had
    assert old is not None
    write_result(Path(study.folder), replace(old, asked=asked_of(study)), run)
    assert read_result(study, run) is not None
    if not is_refused:
        assert read_result(changed, run) is not None
        return
    with pytest.raises(InputError, match=rf"other \[tasks\] .*\({next(iter(changes))}\)"):
        read_result(changed, run)


def test_tables_of_a_finished_study(study: StudySpec) -> None:
    runs = study_runs(study)
    found = {table.title: table for table in tables(study, outcome_of(study, runs).groups, runs)}
    models = [row[0] for row in found["Held-out questions"].rows]
    assert models == ["teacher", "untrained student", "kd", "dskd", "ours"]
    seeds = {row[0]: row[1] for row in found["Held-out questions"].rows}
    assert seeds == {"teacher": "-", "untrained student": "-", "kd": "3", "dskd": "3", "ours": "1"}
    differences = {(row[0], row[2], row[3]): row for row in found["Differences"].rows}
    kl = differences["dskd", "heldout", "KL to the teacher (nats)"]
    assert float(kl[4]) == pytest.approx(-0.1, abs=0.01)
    assert kl[6:] == ("better", "settings")
    single = differences["ours", "heldout", "KL to the teacher (nats)"]
    assert (single[1], single[7]) == ("1 against 1", "these models only")  # the same seed of both
    tasks_with_accuracy = {row[2] for row in found["Differences"].rows if "accuracy" in row[3]}
    assert tasks_with_accuracy == {"quartz"}
    assert found["What the runs took"].rows[0] == ("kd", "3", "100", "10", "20", "2.00")


def test_the_cost_is_shown_once_it_is_measured(study: StudySpec) -> None:
    costed = study.model_copy(update={"cost": CostSpec(arm="dskd", rounds=3)})
    runs = study_runs(costed)
    groups = outcome_of(costed, runs).groups
    titles = [table.title for table in tables(costed, groups, runs)]
    assert "What the sense term costs" not in titles
    figures = [inference_figure({"kd": [1.0, 1.0, 2.0], "dskd": [1.02, 1.01, 2.0]})]
    (Path(costed.folder) / COST_FILE).write_text(as_json(figures))
    found = {table.title: table for table in tables(costed, groups, runs)}
    assert found["What the sense term costs"].rows == [
        ("inference of the trained students: dskd / kd", "1.0100", "at most 1.01", "reached")
    ]


def test_the_cost_of_another_arm_is_not_shown(study: StudySpec) -> None:
    costed = study.model_copy(update={"cost": CostSpec(arm="dskd", rounds=3)})
    path = Path(study.folder) / COST_FILE

    def bench(*_: str) -> float:
        path.write_text(as_json([inference_figure({"kd": [1.0], "dskd": [1.0]})]))
        return 1.0

    stages: Any = SimpleNamespace(study=costed, folder=Path(study.folder), call=bench)
    measure_cost(stages, study_runs(costed))
    assert read_cost(costed) is not None
    for cost in (CostSpec(arm="ours", rounds=3), CostSpec(arm="dskd", rounds=5)):
        with pytest.raises(InputError, match="delete it to measure again"):
            read_cost(study.model_copy(update={"cost": cost}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[cost]\narm = "kdd"\n', "there is no such arm"),
        ("[seeds_of]\nkdd = [0]\n", "there is no such arm"),
        ("[seeds_of]\nkd = [0, 0]\n", "a seed is given twice"),
        ('[cost]\narm = "kd"\n', "the untrained student comes from the baselines"),
    ],
)
def test_wrong_studies_are_refused(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_study(study_file(tmp_path, f"{body}[arms.kd]\n"))


def test_the_report_is_written_and_complete(
    study: StudySpec, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = study_runs(study)
    write_report(study, runs)
    folder = Path(study.folder)
    assert "7 of 7 runs are done" in (folder / "table.md").read_text()
    assert "| dskd | 3 against 3 | heldout |" in capsys.readouterr().out
    content = json.loads((folder / "table.json").read_text())
    assert content["seeds"] == {"kd": [0, 1, 2], "dskd": [0, 1, 2], "ours": [0]}
    page = (folder / "compare.html").read_text()
    assert "untrained student" in page
    assert "What the runs took" in page


def test_a_study_that_has_only_begun_has_a_table_too(tmp_path: Path) -> None:
    found = load_study(study_file(tmp_path, BODY))
    runs = study_runs(found)
    finish(found, runs[0], 0.5)
    write_report(found, runs)
    text = (Path(found.folder) / "table.md").read_text()
    assert "1 of 7 runs are done" in text
    assert baseline_groups(found) == []
