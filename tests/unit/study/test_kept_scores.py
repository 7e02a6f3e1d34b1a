"""What a result keeps of the scores: a study goes on without the run directories."""

from __future__ import annotations

import shutil
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from dskd_ds.commands import sweep
from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import ItemScores, items_path, read_items, write_items
from dskd_ds.study.kept_scores import keep, keep_scores, restored
from dskd_ds.study.outcome import Outcome, outcome_of
from dskd_ds.study.results import read_result, write_result
from dskd_ds.study.runs import Run, study_runs
from dskd_ds.study.spec import StudySpec, load_study
from dskd_ds.study.work import do_work
from tests.unit.study.test_study import CONTROLLED, finish, study_file


def numbers(outcome: Outcome) -> list[float]:
    """Return every mean, error and end of an interval that a study reports."""
    found = [value for arm in outcome.arms for value in (arm.dev, arm.test)]
    for result in [*outcome.comparisons, *outcome.controls]:
        found += [result.reference_mean, result.group_mean]
        found += [value for value in astuple(result.difference) if value is not None]
    return found


def test_the_results_alone_give_the_same_intervals(tmp_path: Path) -> None:
    body = CONTROLLED.replace("dev_share = 0.0", "dev_share = 0.4")
    study = load_study(study_file(tmp_path, body))
    runs = study_runs(study)
    for run in runs:
        finish(run, tmp_path / "study", shift=-0.2 if run.arm == "senses" else 0.0)
    expected = outcome_of(study, runs)
    shutil.rmtree(tmp_path / "study" / "runs")

    assert do_work(study, runs, num_jobs=1) == []  # no run is pending, so none is started

    found = outcome_of(study, runs)
    assert found.best == expected.best
    np.testing.assert_allclose(numbers(found), numbers(expected), atol=1e-6)
    sweep.report(study, runs)  # its page needs no curves
    assert (tmp_path / "study" / "compare.html").stat().st_size > 5000


def test_scores_of_the_run_directory_are_not_replaced(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, CONTROLLED))
    runs = study_runs(study)
    for run in runs:
        finish(run, tmp_path / "study", shift=0.0)
    path = items_path(runs[0].spec.run_dir, "heldout", "after")
    before = path.read_bytes()
    do_work(study, runs, num_jobs=1)
    assert path.read_bytes() == before


def finish_unsorted(study: StudySpec, run: Run, noise_seed: int) -> None:
    """Finish a run whose items have noise of their own and, like real text, unsorted clusters."""
    folder, run_dir = Path(study.folder), Path(run.spec.run_dir)
    finish(run, folder, shift=-0.2 if run.arm == "senses" else 0.0)
    path = items_path(run_dir, "heldout", "after")
    scores = read_items(path)
    order = np.random.default_rng(3).permutation(len(scores.clusters))
    noise = np.random.default_rng(noise_seed).exponential(0.5, len(order))
    values = {key: (found + noise)[order] for key, found in scores.values.items()}
    write_items(replace(scores, clusters=scores.clusters[order], values=values), path)
    result = read_result(study, run)
    assert result is not None
    write_result(folder, replace(result, kept=keep_scores(run_dir, ["after"], ["heldout"])), run)


def test_restored_runs_are_paired_with_fresh_ones_item_by_item(tmp_path: Path) -> None:
    """One run of each arm has only its result; the others have their files."""
    study = load_study(study_file(tmp_path, CONTROLLED))
    runs = study_runs(study)
    for noise_seed, run in enumerate(runs):
        finish_unsorted(study, run, noise_seed)
    expected = outcome_of(study, runs)
    for run in runs:
        if run.seed == 1:
            shutil.rmtree(run.spec.run_dir)
    assert do_work(study, runs, num_jobs=1) == []
    np.testing.assert_allclose(numbers(outcome_of(study, runs)), numbers(expected), atol=1e-6)


def test_items_in_other_clusters_are_other_items(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, CONTROLLED))
    runs = study_runs(study)
    for run in runs:
        finish(run, tmp_path / "study", shift=0.0)
    path = items_path(runs[-1].spec.run_dir, "heldout", "after")
    scores = read_items(path)
    write_items(replace(scores, clusters=np.maximum(scores.clusters - 1, 0)), path)
    with pytest.raises(InputError, match="was measured on other items"):
        outcome_of(study, runs)


def test_clusters_of_different_size_and_an_empty_one() -> None:
    scores = ItemScores(
        task="wic_50",
        model="after",
        digest="pairs",
        clusters=np.array([3, 0, 0, 3, 3, 1]),
        values={"auc": np.array([0.5, 1.0, 0.0, 0.25, 0.75, -1.0])},
    )
    kept = keep(scores)
    assert kept["counts"] == [2, 1, 0, 3]
    again = restored(kept, "wic_50", "after")
    assert again.digest == "pairs"
    assert again.clusters.tolist() == [0, 0, 1, 3, 3, 3]
    assert again.values["auc"].tolist() == pytest.approx([0.5, 0.5, -1.0, 0.5, 0.5, 0.5])
