"""The table of a study that measures tasks besides held-out text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dskd_ds.evaluation.items import ItemScores, items_path, write_items
from dskd_ds.study.outcome import outcome_of
from dskd_ds.study.runs import study_runs
from dskd_ds.study.spec import load_study
from dskd_ds.study.table import markdown
from tests.unit.study.test_study import CONTROLLED, finish, study_file


def test_a_score_names_its_task(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, CONTROLLED))
    runs = study_runs(study)
    for run in runs:
        finish(run, tmp_path / "study", shift=0.0)
        for task in ("wic_0", "wic_50"):
            values = {"auc": np.random.default_rng(run.seed).random(40)}
            scores = ItemScores(task, "after", task, np.arange(40), values)
            write_items(scores, items_path(run.spec.run_dir, task, "after"))
    table = markdown(study, outcome_of(study, runs), planned=len(runs))
    assert "| senses | kl |" in table
    assert "| senses | wic_0 auc |" in table
    assert "| senses | shuffled | wic_50 auc |" in table
