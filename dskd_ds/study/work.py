"""Does the work of a study: what is prepared, dictionaries, baselines, then every arm and seed.

Each stage is a `dskd` command, which resumes by itself. A run whose result exists is not touched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

from dskd_ds.errors import InputError, RequeueError
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.study.cost import measure_cost, read_cost
from dskd_ds.study.kept_scores import restore_missing
from dskd_ds.study.one_run import measure_baselines, train_and_measure
from dskd_ds.study.prepare import prepare
from dskd_ds.study.results import read_result
from dskd_ds.study.runs import Run, base_spec, baseline_run, first_of_each_dictionary
from dskd_ds.study.spec import StudySpec
from dskd_ds.study.stages import StageError, Stages, stopping_on_signals


def do_work(study: StudySpec, runs: Sequence[Run], num_jobs: int) -> list[str]:
    """Run everything that has no result yet; returns what failed, one message each.

    num_jobs: runs at a time. A failed run does not stop the others, nor does a failed [cost].
    Raises InputError if results of another study are in the folder, StageError if a dictionary
    or the files of [[prepare]] cannot be made, and RequeueError if a signal stopped the study.
    """
    stages = Stages(study)
    planned = [*([baseline_run(study)] if study.baselines else []), *runs]
    results = {run.name: read_result(study, run) for run in planned}
    read_cost(study)  # figures of another arm are refused before anything runs
    pending = [run for run in planned if results[run.name] is None]
    for run in planned:
        result = results[run.name]
        if result is not None:
            restore_missing(result, Path(run.spec.run_dir))

    def work(run: Run) -> None:
        (measure_baselines if run.is_baseline else train_and_measure)(stages, run)

    with stopping_on_signals(stages):
        prepare(stages)
        for run in first_of_each_dictionary(pending):
            name = f"senses-{Path(run.spec.senses.dictionary).name}"
            overrides = [*run.overrides, f"seed={base_spec(study).seed}"]
            ranks = ["--ranks", str(num_jobs)]
            stages.call(name, "senses", "build", study.base, *override_argv(overrides), *ranks)
        with tqdm(
            total=len(planned), initial=len(planned) - len(pending), desc="study", unit="run"
        ) as bar:
            failures = _run_all(work, pending, num_jobs, bar)
        try:
            measure_cost(stages, runs)
        except StageError as error:  # what has finished is still reported, without this table
            failures.append(str(error))
        return failures


def _run_all(
    work: Callable[[Run], None], pending: Sequence[Run], num_jobs: int, bar: tqdm[None]
) -> list[str]:
    """Do the work of all runs, `num_jobs` at a time; returns the messages of those that failed."""
    failures: list[str] = []
    with ThreadPoolExecutor(max_workers=num_jobs) as pool:
        futures: set[Future[None]] = {pool.submit(work, run) for run in pending}
        while futures:
            done, futures = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                if isinstance(error, RequeueError):
                    raise error  # the other runs meet the same wish and end
                if isinstance(error, StageError | InputError):
                    failures.append(str(error))
                    tqdm.write(str(error), file=sys.stderr)
                elif error is not None:
                    raise error
                bar.update()
    return failures
