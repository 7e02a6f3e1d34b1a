"""Arguments that the command lines share: the spec and its overrides; and their exit codes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from dskd_ds.errors import DskdError, ExitCode
from dskd_ds.runtime.reporting import report_error
from dskd_ds.spec import RunSpec, load_spec

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def spec_command(
    commands: Commands[argparse.ArgumentParser], name: str, text: str, description: str = ""
) -> argparse.ArgumentParser:
    """Add a command whose first argument is a run's spec, and return its parser.

    text: the command's line in the list of commands.
    description: printed by the command's --help, if it is more than `text`.
    """
    # argparse's default formatter would join the lines of tables and examples.
    command = commands.add_parser(
        name,
        help=text,
        description=description or text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "spec", help="the run's TOML spec: a file, or one that ships (dskd init --list)"
    )
    add_overrides(command)
    return command


def rank_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a program that a launcher starts on every rank: --spec and --set.

    module: the name after `python -m`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--spec", required=True, help="the run's TOML spec")
    add_overrides(parser)
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add --set, which may be given several times."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the spec, e.g. train.num_steps=100 (may be given several times)",
    )


def add_force(command: argparse.ArgumentParser) -> None:
    """Add --force, which overrides the refusal of a run that does not fit into memory."""
    command.add_argument(
        "--force",
        action="store_true",
        help="go on although the plan says that the run does not fit into memory (dskd plan)",
    )


def add_ranks(command: argparse.ArgumentParser, what: str) -> None:
    """Add --ranks to a command that mpirun starts. what: what the ranks do."""
    command.add_argument(
        "--ranks",
        type=at_least(1),
        default=1,
        metavar="N",
        help=f"MPI ranks that {what} (default 1); the result is the same",
    )


def at_least(minimum: int) -> Callable[[str], int]:
    """Return a converter for `add_argument(type=...)` that refuses smaller integers.

    Large numbers may be written as 2_000_000_000 or 2e9.
    """

    def convert(text: str) -> int:
        try:
            value = float(text) if "e" in text.lower() else int(text)
        except ValueError:
            value = float("nan")
        if value != value // 1:
            raise argparse.ArgumentTypeError(f"{text} is invalid: must be a whole number")
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is invalid: must be at least {minimum}")
        return int(value)

    return convert


def override_argv(overrides: Sequence[str]) -> list[str]:
    """Return overrides as arguments of a command line: `--set KEY=VALUE` for each."""
    return [argument for override in overrides for argument in ("--set", override)]


def spec_of(args: argparse.Namespace) -> RunSpec:
    """Load the spec that a command's arguments name. Raises InputError if it is invalid."""
    return load_spec(args.spec, args.set)


def exit_code_of(work: Callable[[], object]) -> int:
    """Do the work and return the exit code; a DskdError is printed to stderr."""
    try:
        work()
    except DskdError as error:
        return report_error(error)
    return int(ExitCode.DONE)
