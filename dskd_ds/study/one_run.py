"""Trains and measures one run of a study, or measures its baselines, and writes the result."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.evaluation.heldout import TASK
from dskd_ds.evaluation.items import ItemScores, items_path, read_items
from dskd_ds.evaluation.result import means_of, summarise
from dskd_ds.evaluation.tasks.documents import chance_of_guess
from dskd_ds.evaluation.word_tasks import WORD_TASKS, stored_names
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.student.run_lock import refuse_a_held_run
from dskd_ds.study.cuts import offer_cut, take_shared_cut
from dskd_ds.study.kept_scores import keep_scores
from dskd_ds.study.results import Result, asked_of, write_result
from dskd_ds.study.runs import Run
from dskd_ds.study.spec import StudySpec, TasksSpec, filled
from dskd_ds.study.stages import Stages

EARLIER_LAUNCH_SECONDS = 180.0
"""How long a run waits for the launch of a study that was killed. Then its training says who holds
the run directory."""
TRAINED = "after"
"""Name of a run's trained student in its scores."""
BASELINES = ("teacher", "before")
"""Names of the teacher and of the untrained student in the scores of the baselines."""


def train_and_measure(stages: Stages, run: Run) -> None:
    """Train and measure one run, and write its result."""
    study, run_dir = stages.study, Path(run.spec.run_dir)
    _wait_for_earlier_launch(stages, run_dir)
    take_shared_cut(stages.folder, run)
    overrides = override_argv(run.overrides)
    seconds = {"train": stages.call(run.name, "train", study.base, *overrides)}
    offer_cut(stages.folder, run)
    model = ("--model", f"{TRAINED}={run_dir}/student")
    # The untrained student is the same in all runs, and samples are not compared.
    heldout = [*override_argv([*run.overrides, "eval.num_samples=0"]), *model]
    seconds["eval"] = stages.call(run.name, "eval", study.base, *heldout)
    if study.tasks:
        asked = [*overrides, *model, *task_argv(study, study.tasks)]
        seconds["tasks"] = stages.call(run.name, "eval", study.base, *asked)
    result = Result(
        arm=run.arm,
        seed=run.seed,
        settings=run.settings,
        overrides=run.overrides,
        seconds=seconds,
        scores=asdict(summarise(read_items(items_path(run_dir, TASK, TRAINED)))),
        tasks=_task_means(study, run_dir, TRAINED),
        asked=asked_of(study),
        kept=keep_scores(run_dir, [TRAINED], measured_tasks(study)),
        last_record=read_metrics(run_dir)[-1],
    )
    write_result(stages.folder, result, run)


def measure_baselines(stages: Stages, run: Run) -> None:
    """Measure the teacher and the untrained student, and write their result.

    run: the base spec with a run directory of the study; it is not trained.
    """
    study, run_dir = stages.study, Path(run.spec.run_dir)
    take_shared_cut(stages.folder, run)
    overrides = override_argv([*run.overrides, "eval.num_samples=0"])
    argv = [study.base, *overrides, "--model", "before"]
    seconds = {"eval": stages.call(run.name, "eval", *argv)}
    offer_cut(stages.folder, run)
    if study.tasks:
        asked = task_argv(study, study.tasks)
        argv += ["--model", "teacher", *asked]
        seconds["tasks"] = stages.call(run.name, "eval", *argv)
    scores = {
        name: asdict(summarise(read_items(items_path(run_dir, TASK, name)))) for name in BASELINES
    }
    result = Result(
        arm=run.arm,
        seed=run.seed,
        settings=run.settings,
        overrides=run.overrides,
        seconds=seconds,
        scores=scores,
        tasks={name: _task_means(study, run_dir, name) for name in BASELINES},
        asked=asked_of(study),
        chances=_chances(study, run_dir),
        kept=keep_scores(run_dir, BASELINES, measured_tasks(study)),
        last_record={},
    )
    write_result(stages.folder, result, run)


def task_argv(study: StudySpec, tasks: TasksSpec) -> list[str]:
    """Return the arguments of `dskd eval` that ask a study's tasks."""
    argv = ["--tasks", ",".join(tasks.names), "--scoring", tasks.scoring]
    argv += ["--batch-size", str(tasks.batch_size)]
    if tasks.data_dir:
        argv += ["--data-dir", filled(tasks.data_dir, study)]
    if tasks.limit:
        argv += ["--limit", str(tasks.limit)]
    if tasks.max_prompt_tokens:
        argv += ["--max-prompt-tokens", str(tasks.max_prompt_tokens)]
    if tasks.max_shots is not None:
        argv += ["--max-shots", str(tasks.max_shots)]
    return argv


def measured_tasks(study: StudySpec) -> list[str]:
    """Return the names under which the scores of a run are stored."""
    return [TASK, *(stored_names(study.tasks.names) if study.tasks else ())]


def _task_means(study: StudySpec, run_dir: Path, model: str) -> dict[str, Any]:
    """Return task -> what `means_of` returns of a model's scores."""
    if not study.tasks:
        return {}
    measured: dict[str, ItemScores] = {
        task: read_items(items_path(run_dir, task, model))
        for task in stored_names(study.tasks.names)
    }
    return {task: means_of(scores) for task, scores in measured.items()}


def _chances(study: StudySpec, run_dir: Path) -> dict[str, float | None]:
    """Return task -> accuracy of a guess, of the tasks that ask questions."""
    names = study.tasks.names if study.tasks else ()
    return {name: chance_of_guess(run_dir, name) for name in names if name not in WORD_TASKS}


def _wait_for_earlier_launch(stages: Stages, run_dir: Path) -> None:
    """Wait until no launch holds a run, for a limited time.

    If a study was killed, its launch ends by itself, but it may save first.
    """
    deadline = time.monotonic() + EARLIER_LAUNCH_SECONDS
    while time.monotonic() < deadline and not stages.is_stopping:
        try:
            refuse_a_held_run(run_dir)
            return
        except InputError:
            time.sleep(1.0)
