"""`dskd eval`: measures held-out perplexity and KL, or question answering, of a run's models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dskd_ds.commands.task_options import add_task_options, task_argv_of, task_options
from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import Commands, add_overrides
from dskd_ds.spec import RunSpec, load_spec

if TYPE_CHECKING:
    from dskd_ds.evaluation.result import Score
    from dskd_ds.models.named import NamedModel, RunModels

TEACHER, BEFORE, AFTER = "teacher", "before", "after"
"""Names of a run's teacher, untrained student and trained student in scores."""
TAKEN_NAMES = {TEACHER: "the run's teacher, which KL is measured to", "prompt": "a sample's text"}
"""Names of other things in the scores and samples of a run, and what they are."""
RESERVED_LETTERS = "/:,"
"""Letters that end a name in a path of scores, or in what `dskd compare` takes."""
TEXT = """\
Measure the teacher and the student, before and after training, on text that was kept out of
training ([data] heldout, or heldout_fraction of the documents): perplexity, and the KL of the
teacher's to the student's distribution, in nats. Also let each model continue a few held-out
texts.

Prints a table with a standard error beside each number, and stores it with the samples in
evaluation.json in the run directory, where `dskd report` reads it. The scores of every position are
kept in RUN_DIR/evaluation/heldout/MODEL.parquet, where `dskd compare` pairs them with those of
other runs. Length and number of samples are in [eval].

With --tasks, ask the questions of lm-evaluation-harness tasks instead (pip install
'dskd-ds[eval]'): the labels' log-probabilities (accuracy, margin of the right label, Brier score),
and the model's own answer, which must equal the label as in the paper; F1 for SQuAD 2.0. The
prompts are the paper's: 5 shots, SQuAD 2.0 one of the same context, in the turns of [data]
chat_template. A model alone needs no spec, and gets the turns of its own chat template:
  dskd eval --tasks arc_challenge,mmlu --model mine=FOLDER
The tasks wic and simlex need no answers: word in context and SimLex-999 by the states of teacher
and students, at 0, 25, 50, 75 and 100 percent of their layers (wic_50, ...).
RUN_DIR/harness has the prompts and task files; lm_eval --model_args
pretrained=FOLDER,softmax_dtype=float32 --include_path RUN_DIR/harness --tasks arc_challenge_label
asks the same questions.

With --watch RUN, score each checkpoint beside a running training, on held-out text or on --tasks:
the curves are in TensorBoard, the numbers in RUN/evaluation/checkpoints.jsonl, and dskd compare
reads the scores as RUN:step-00000100. It ends when the training has finished.

The standard error is that of the text: what another choice of held-out documents would change. It
says nothing about another seed; for that, train several and use `dskd compare`."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd eval`."""
    command = commands.add_parser(
        "eval",
        help="measure perplexity, KL and question answering of teacher and student",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "spec",
        nargs="?",
        help="the run's TOML spec: a file, or one that ships; with --tasks and --model it may be"
        " left out",
    )
    add_overrides(command)
    command.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="model to evaluate; may be given several times. With a spec, the names alone mean the"
        " run's own models: before (the untrained student) and after (the trained one; default:"
        " both), and for --tasks teacher (default: it too)",
    )
    command.add_argument(
        "--watch",
        metavar="RUN",
        help="score each checkpoint that this run saves, until its training has finished",
    )
    command.add_argument(
        "--once", action="store_true", help="with --watch: score what is saved now, and end"
    )
    command.add_argument(
        "--every",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="with --watch: time between two looks at the checkpoints (default 15)",
    )
    add_task_options(command)
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate what the command line names; returns the exit code. Raises InputError."""
    if args.watch is not None:
        return _watch(args)
    if args.tasks is None:
        if args.spec is None:
            raise InputError(
                "dskd eval: held-out text needs a spec.\n"
                "  name one, or give --tasks NAME,... with --model NAME=PATH."
            )
        return evaluate(args.spec, args.set, args.model)
    return _run_tasks(args)


def _watch(args: argparse.Namespace) -> int:
    """Score the checkpoints of a run. Raises InputError for options that do not go together."""
    from dskd_ds.commands.status import find_run_dir
    from dskd_ds.commands.watch_checkpoints import watch

    if args.spec is not None or args.set or args.model:
        raise InputError(
            "--watch: it takes the spec of the run directory and the student of each checkpoint.\n"
            "  leave out the spec, --set and --model."
        )
    run_dir = find_run_dir(args.watch)
    return watch(run_dir, task_argv_of(args), every_seconds=max(args.every, 0.1), is_once=args.once)


def _run_tasks(args: argparse.Namespace) -> int:
    """Evaluate tasks, of a run's models or of models alone."""
    from dskd_ds.commands.evaluate_tasks import evaluate_tasks
    from dskd_ds.models.named import NamedModel
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.spec.recipe import RecipeSpec

    quiet_progress()
    options = task_options(args)
    if args.spec is None:
        paths = _named_paths(args.model)
        if not paths:
            raise InputError("dskd eval --tasks: name a spec, or --model NAME=PATH.")
        models = {name: NamedModel(path, key="--model") for name, path in paths.items()}
        first = next(iter(models.values()))
        output = args.output or "evaluated"
        return evaluate_tasks(output, models, options, RecipeSpec(), prompt_model=first)
    if args.output is not None:
        raise InputError(
            f"--output {args.output}: with a spec, scores are stored in its run_dir.\n"
            "  leave --output out, or evaluate without a spec: --model NAME=PATH."
        )
    spec = load_spec(args.spec, args.set)
    of_run, models = _models_of(spec, args.spec, args.model)
    if not args.model or TEACHER in args.model:
        models = {TEACHER: of_run.teacher, **models}
    return evaluate_tasks(
        spec.run_dir,
        models,
        options,
        spec.recipe or RecipeSpec(),
        prompt_model=of_run.teacher,
        spec=spec,
    )


def evaluate(spec_file: str, overrides: Sequence[str], models: Sequence[str] = ()) -> int:
    """Evaluate, print a table and store the numbers for the report; returns the exit code.

    models: what `--model` names, to evaluate instead of the student before and after training.
    Raises InputError if there is no such model, or nothing was trained.
    """
    from dskd_ds.evaluation.heldout import score_heldout
    from dskd_ds.evaluation.result import write_evaluation
    from dskd_ds.evaluation.samples import continuations
    from dskd_ds.runtime.console import quiet_progress

    spec = load_spec(spec_file, overrides)
    quiet_progress()
    of_run, students = _models_of(spec, spec_file, models)
    items = score_heldout(spec, of_run, students)
    samples = continuations(spec, of_run, students)
    path, scores = write_evaluation(spec.run_dir, items, samples)
    print_scores(scores)
    print(f"stored in {path}")
    return 0


def _models_of(
    spec: RunSpec, spec_file: str, models: Sequence[str]
) -> tuple[RunModels, dict[str, NamedModel]]:
    """Return a run's models, and the students to evaluate by name.

    models: `NAME=PATH`, or `before` or `after`; none: both of these. The name `teacher` adds no
    student. Raises InputError if there is no such model, or nothing was trained.
    """
    from dskd_ds.models.named import NamedModel, RunModels
    from dskd_ds.student import export
    from dskd_ds.student.depth import student_init

    of_run = RunModels.of(spec)
    wanted = models or (BEFORE, AFTER)
    named = _named_paths(wanted, of_run=(TEACHER, BEFORE, AFTER))
    for name in TAKEN_NAMES.keys() & named.keys():
        raise InputError(
            f"--model {name}={named[name]}: beside a spec, {name} is the name of"
            f" {TAKEN_NAMES[name]}.\n  give this model another name."
        )
    paths: dict[str, str] = {}
    if AFTER in wanted:
        trained = Path(spec.run_dir) / export.FOLDER
        if not trained.is_dir():
            raise InputError(
                f"{trained}: there is no trained student yet.\n"
                f"  train first (dskd train {spec_file}), or give --model NAME=PATH."
            )
        paths[AFTER] = str(trained)
    if BEFORE in wanted:
        paths = {BEFORE: student_init(spec, of_run).path, **paths}
    paths |= named
    students = {
        name: NamedModel(path, key="--model", dtype=spec.student.dtype)
        for name, path in paths.items()
    }
    # A wrong name is reported before the teacher is loaded.
    for student in students.values():
        student.locate()
    return of_run, students


def print_scores(scores: dict[str, Score]) -> None:
    """Print one row per model."""
    print(f"{'model':<12}{'perplexity':>20}{'KL to teacher':>20}{'tokens':>10}{'documents':>11}")
    for name, score in scores.items():
        perplexity = with_error(score.perplexity, score.perplexity_error, digits=2)
        kl = with_error(score.kl, score.kl_error, digits=4)
        print(f"{name:<12}{perplexity:>20}{kl:>20}{score.tokens:>10}{score.documents:>11}")
    # The teacher's own are 0.
    quarters = {n: score.kl_by_entropy for n, score in scores.items() if any(score.kl_by_entropy)}
    if quarters:
        print("\nKL by quarter of the tokens, from where the teacher is most sure to least sure:")
    for name, means in quarters.items():
        print(f"{name:<12}" + "".join(f"{mean:>10.4f}" for mean in means))


def with_error(value: float, error: float | None, digits: int) -> str:
    """Return "65.07 ± 1.20"; the value alone if its error is unknown."""
    text = f"{value:.{digits}f}"
    return text if error is None else f"{text} ± {error:.{digits}f}"


def _named_paths(models: Sequence[str], of_run: Sequence[str] = ()) -> dict[str, str]:
    """Parse --model to name -> path.

    of_run: names that alone mean a model of the run; they are checked, but not returned.
    Raises InputError, also for a name that is no part of a file's name or that comes twice.
    """
    paths: dict[str, str] = {}
    names = [item.partition("=")[0] for item in models]
    for item in models:
        name, separator, path = item.partition("=")
        if names.count(name) > 1:
            raise InputError(
                f"--model {item}: the name {name} is given more than once.\n"
                "  give each model a name of its own."
            )
        if not separator and name in of_run:
            continue
        if not separator:
            raise InputError(
                f"--model {item}: this is not of the form NAME=PATH.\n"
                "  example: --model mine=runs/mine/student"
            )
        if not name or any(letter in name for letter in RESERVED_LETTERS):
            raise InputError(
                f'--model {item}: "{name}" cannot be a name: its scores are in a file of that name,'
                " and dskd compare reads them as RUN:NAME.\n"
                f"  name it without {' '.join(RESERVED_LETTERS)}, for example"
                " --model mine=runs/mine/student"
            )
        paths[name] = path
    return paths
