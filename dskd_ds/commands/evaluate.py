"""`dskd eval`: measures held-out perplexity and KL, and writes sample continuations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import Commands, spec_command
from dskd_ds.spec import load_spec

if TYPE_CHECKING:
    from dskd_ds.evaluation.result import Score

TEXT = """\
Measure the teacher and the student, before and after training, on text that was kept out of
training ([data] heldout, or heldout_fraction of the documents): perplexity, and the KL of the
teacher's to the student's distribution, in nats. Also let each model continue a few held-out
texts.

Prints a table with a standard error beside each number, and stores it with the samples in
evaluation.json in the run directory, where `dskd report` reads it. The scores of every position are
kept in RUN_DIR/evaluation/heldout/MODEL.parquet, where `dskd compare` pairs them with those of
other runs. Length and number of samples are in [eval].

The standard error is that of the text: what another choice of held-out documents would change. It
says nothing about another seed; for that, train several and use `dskd compare`."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd eval`."""
    command = spec_command(
        commands,
        "eval",
        "measure held-out perplexity and KL of teacher and student; write samples",
        description=TEXT,
    )
    command.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="model to evaluate besides the teacher; may be given several times"
        " (default: before=the untrained student, after=the trained one)",
    )
    command.set_defaults(command=lambda args: evaluate(args.spec, args.set, args.model))


def evaluate(spec_file: str, overrides: Sequence[str], models: Sequence[str] = ()) -> int:
    """Evaluate, print a table and store the numbers for the report; returns the exit code.

    models: `NAME=PATH` each, to evaluate instead of the student before and after training.
    Raises InputError if there is no such model, or nothing was trained.
    """
    from dskd_ds.evaluation.heldout import score_heldout
    from dskd_ds.evaluation.result import write_evaluation
    from dskd_ds.evaluation.samples import continuations
    from dskd_ds.models.named import NamedModel, RunModels
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.student import export
    from dskd_ds.student.depth import student_init

    spec = load_spec(spec_file, overrides)
    quiet_progress()
    trained = Path(spec.run_dir) / export.FOLDER
    if not models and not trained.is_dir():
        raise InputError(
            f"{trained}: there is no trained student yet.\n"
            f"  train first (dskd train {spec_file}), or give --model NAME=PATH."
        )
    paths = _named_paths(models)
    of_run = RunModels.of(spec)
    if not paths:
        paths = {"before": student_init(spec, of_run).path, "after": str(trained)}
    students = {
        name: NamedModel(path, key="--model", dtype=spec.student.dtype)
        for name, path in paths.items()
    }
    # A wrong name is reported before the teacher is loaded.
    for student in students.values():
        student.locate()
    items = score_heldout(spec, of_run, students)
    samples = continuations(spec, of_run, students)
    path, scores = write_evaluation(spec.run_dir, items, samples)
    print_scores(scores)
    print(f"stored in {path}")
    return 0


def print_scores(scores: dict[str, Score]) -> None:
    """Print one row per model."""
    print(f"{'model':<12}{'perplexity':>20}{'KL to teacher':>20}{'tokens':>10}{'documents':>11}")
    for name, score in scores.items():
        perplexity = with_error(score.perplexity, score.perplexity_error, digits=2)
        kl = with_error(score.kl, score.kl_error, digits=4)
        print(f"{name:<12}{perplexity:>20}{kl:>20}{score.tokens:>10}{score.documents:>11}")


def with_error(value: float, error: float | None, digits: int) -> str:
    """Return "65.07 ± 1.20"; the value alone if its error is unknown."""
    text = f"{value:.{digits}f}"
    return text if error is None else f"{text} ± {error:.{digits}f}"


def _named_paths(models: Sequence[str]) -> dict[str, str]:
    """Parse --model to name -> path. Raises InputError."""
    paths: dict[str, str] = {}
    for item in models:
        name, separator, path = item.partition("=")
        if not separator:
            raise InputError(
                f"--model {item}: this is not of the form NAME=PATH.\n"
                "  example: --model mine=runs/mine/student"
            )
        paths[name] = path
    return paths
