"""What is made of a study's runs: parts of the documents, and tasks besides held-out text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import ItemScores, items_path, write_items
from dskd_ds.evaluation.split import part_of
from dskd_ds.study.outcome import outcome_of
from dskd_ds.study.runs import Run, study_runs
from dskd_ds.study.spec import load_study
from dskd_ds.study.table import markdown
from tests.unit.study.test_study import CONTROLLED, NUM_DOCUMENTS, finish, study_file


def measure(run: Run, task: str, metric: str, num_items: int) -> None:
    """Leave the scores of a task in a run directory."""
    values = {metric: np.random.default_rng(run.seed).standard_normal(num_items)}
    scores = ItemScores(task, "after", task, np.arange(num_items), values)
    write_items(scores, items_path(run.spec.run_dir, task, "after"))


def test_a_document_is_in_one_part_only() -> None:
    clusters = np.repeat(np.arange(200), 3)
    scores = ItemScores(
        "heldout", "after", "text", clusters, {"kl": np.arange(600, dtype=np.float64)}
    )
    dev, test = part_of(scores, "dev", 0.3), part_of(scores, "test", 0.3)
    both = np.concatenate([dev.values["kl"], test.values["kl"]])
    assert sorted(both) == list(range(600))
    assert not set(dev.values["kl"] // 3) & set(test.values["kl"] // 3)
    assert 0.2 < len(dev.clusters) / 600 < 0.4
    assert dev.digest != test.digest


def test_tasks_that_decide_nothing_are_reported_whole(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, "[arms.kd]\n[arms.dskd]\n"))
    runs = study_runs(study)
    num_questions = 40
    for run in runs:
        finish(run, tmp_path / "study", shift=0.0)
        measure(run, "quartz", "margin", num_questions)
    sizes = {
        result.task: result.difference.num_clusters
        for result in outcome_of(study, runs).comparisons
    }
    assert sizes["quartz"] == num_questions
    assert 0 < sizes["heldout"] < NUM_DOCUMENTS


@pytest.mark.parametrize(("dev_share", "part"), [(1e-9, "dev"), (1.0, "test")])
def test_a_part_without_documents_is_refused(tmp_path: Path, dev_share: float, part: str) -> None:
    study = load_study(study_file(tmp_path, f"dev_share = {dev_share:.9f}\n[arms.a]\n[arms.b]\n"))
    runs = study_runs(study)
    for run in runs:
        finish(run, tmp_path / "study", shift=0.0)
    with pytest.raises(InputError, match=f"0 of the 60 documents .* are in the {part} part"):
        outcome_of(study, runs)


def test_a_score_names_its_task(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, CONTROLLED))
    runs = study_runs(study)
    for run in runs:
        finish(run, tmp_path / "study", shift=0.0)
        measure(run, "wic_0", "auc", 40)
        measure(run, "wic_50", "auc", 40)
    table = markdown(study, outcome_of(study, runs), planned=len(runs))
    assert "| senses | kl |" in table
    assert "| senses | wic_0 auc |" in table
    assert "| senses | shuffled | wic_50 auc |" in table
