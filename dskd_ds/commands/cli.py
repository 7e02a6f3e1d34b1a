"""`dskd`: the commands of the project. Each loads what it needs and no more; a mistake of the user's ends with exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from dskd_ds import __version__
from dskd_ds.commands import bench as bench_commands
from dskd_ds.commands import data as data_commands
from dskd_ds.commands import senses as sense_commands
from dskd_ds.errors import DskdError
from dskd_ds.runtime.arguments import spec_command, spec_of
from dskd_ds.runtime.console import quiet_libraries

EPILOG = """\
a run of your own, from its spec to its report:
  dskd senses build my.toml     the teacher reads the text; senses and index are built
  dskd train my.toml            cuts the student, prints the deepspeed line and runs it
  dskd eval my.toml             perplexity and KL on held-out text, before and after
  dskd report my.toml           runs/.../report.html

Start from ds_configs/runs/quickstart.toml. Any key can be overridden: --set train.num_steps=100
exit codes: 0 done, 2 the input is wrong, 3 saved (please requeue), 4 no teacher came, 1 anything else
"""


def main(argv: list[str] | None = None) -> int:
    """Parse and run one command; returns its exit code."""
    quiet_libraries()
    args = parser().parse_args(argv)
    try:
        command: Callable[[argparse.Namespace], int] = args.command
        return command(args)
    except DskdError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="dskd", description="Distil a large language model with word senses.", epilog=EPILOG,
                                  formatter_class=raw)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    quickstart = commands.add_parser("quickstart", help="the whole job on real input, on a laptop; done stages are skipped")
    quickstart.add_argument("--steps", type=int, help="train this many steps instead of the spec's (for a quick look)")
    quickstart.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the spec")
    quickstart.set_defaults(command=run_quickstart)

    train = spec_command(commands, "train", "train a student on this machine; goes on where an earlier call stopped")
    train.add_argument("--dry-run", action="store_true", help="check everything; print what the teacher will send, and the deepspeed line")
    train.set_defaults(command=run_train)

    sense_commands.add_commands(commands)
    data_commands.add_commands(commands)

    evaluate = spec_command(commands, "eval", "held-out perplexity and KL of teacher and student, and texts they write")
    evaluate.add_argument("--model", action="append", default=[], metavar="NAME=PATH",
                          help="models to evaluate beside the teacher (default: before=the untrained student, after=the trained one)")
    evaluate.set_defaults(command=run_eval)

    export = spec_command(commands, "export", "write a checkpoint's student as a Hugging Face folder (training does so at its end)")
    export.add_argument("--tag", help="the checkpoint's folder name, e.g. step-00000100 (default: the newest)")
    export.set_defaults(command=run_export)

    report = spec_command(commands, "report", "write report.html of a run")
    report.set_defaults(command=run_report)

    bench_commands.add_commands(commands)
    return top


def run_quickstart(args: argparse.Namespace) -> int:
    """See quickstart/stages.py."""
    from dskd_ds.commands.quickstart import quickstart

    overrides = [*args.set, *([f"train.num_steps={args.steps}"] if args.steps is not None else [])]
    return quickstart(overrides)


def run_train(args: argparse.Namespace) -> int:
    """Check, cut the student, launch."""
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.plan.traffic import plan_line
    from dskd_ds.runtime import launch
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.student.depth import student_init

    spec = spec_of(args)
    quiet_progress()
    preflight(spec)
    print(plan_line(spec))
    command = launch.train_command(args.spec, args.set, spec)
    if args.dry_run:
        print(*command)
        return 0
    student_init(spec)
    return launch.run(command)


def run_eval(args: argparse.Namespace) -> int:
    """Evaluate, print a table, store the numbers for the report."""
    from dskd_ds.errors import InputError
    from dskd_ds.models.resolve import resolve_model
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.student import evaluation, export
    from dskd_ds.student.depth import student_init

    spec = spec_of(args)
    quiet_progress()
    trained = Path(spec.run_dir) / export.FOLDER
    if not args.model and not trained.is_dir():
        raise InputError(f"{trained}: there is no trained student yet.\n  train first (dskd train {args.spec}), or give --model NAME=PATH.")
    if wrong := [item for item in args.model if "=" not in item]:
        raise InputError(f"--model {wrong[0]}: this is not of the form NAME=PATH.\n  example: --model mine=runs/mine/student")
    models = dict(item.split("=", 1) for item in args.model) or {"before": student_init(spec), "after": str(trained)}
    models = {name: resolve_model(path, "--model") for name, path in models.items()}
    scores = evaluation.evaluate(spec, models)
    samples = evaluation.continuations(spec, {"teacher": resolve_model(spec.teacher.model), **models})
    path = evaluation.write_evaluation(spec, scores, samples)
    print(f"{'model':<12}{'perplexity':>12}{'KL to teacher':>16}{'tokens':>10}")
    for name, score in scores.items():
        print(f"{name:<12}{score.perplexity:>12.2f}{score.kl:>16.4f}{score.tokens:>10}")
    print(f"stored in {path}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Checkpoint -> Hugging Face folder."""
    from dskd_ds.student.export import export_checkpoint

    print(export_checkpoint(spec_of(args), args.tag))
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Write the report."""
    from dskd_ds.commands.report import write_report

    print(write_report(spec_of(args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
