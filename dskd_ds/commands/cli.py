"""`dskd`: parses the command line and runs one command.

A command imports what it needs when it runs, so that `--help` is fast. Wrong input ends with exit
code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from dskd_ds import __version__
from dskd_ds.commands import (
    bench,
    cache,
    checkpoint,
    compare,
    data,
    evaluate,
    export,
    init,
    paper,
    plan,
    quickstart,
    report,
    schema,
    senses,
    status,
    submit,
    sweep,
    teach,
    train,
)
from dskd_ds.errors import DskdError, ExitCode
from dskd_ds.runtime.console import quiet_libraries
from dskd_ds.runtime.reporting import report_error

EPILOG = """\
A run of your own, from its spec to its report:
  dskd init my.toml             writes a commented spec (--list names the specs that ship)
  dskd senses build my.toml     the teacher reads the text; builds senses and their index
  dskd train my.toml            cuts the student, prints the deepspeed line and runs it
  dskd status my.toml           alive or not, step, speed, waits, errors, what to do next
  dskd eval my.toml             perplexity and KL on held-out text, before and after
  dskd report my.toml           writes runs/my/report.html
  dskd compare runs/a runs/b    says whether two runs differ by more than chance explains

Each command explains its options: dskd COMMAND --help.
Any key of a spec can be overridden: --set train.num_steps=100. All keys: dskd schema.
A complete example on a laptop: dskd quickstart.

exit codes: 0 done, 2 the input is wrong, 3 saved (please requeue), 4 no teacher came,
  1 anything else
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code. A DskdError is printed to stderr."""
    quiet_libraries()
    try:
        try:
            return run_command(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, as `head` does. Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.FAILED)


def run_command(argv: list[str] | None) -> int:
    """Parse the command line and run its command; see `main`."""
    args = parser().parse_args(argv)
    try:
        command: Callable[[argparse.Namespace], int] = args.command
        return command(args)
    except DskdError as error:
        return report_error(error, spec_file=getattr(args, "spec", None))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="dskd",
        description="Distil a large language model with word senses.",
        epilog=EPILOG,
        formatter_class=raw,
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    # --help lists them in this order: first what a new user needs first.
    quickstart.add_command(commands)
    init.add_command(commands)
    plan.add_command(commands)
    train.add_command(commands)
    teach.add_command(commands)
    cache.add_command(commands)
    submit.add_command(commands)
    status.add_command(commands)
    senses.add_commands(commands)
    data.add_commands(commands)
    paper.add_command(commands)
    evaluate.add_command(commands)
    compare.add_command(commands)
    sweep.add_command(commands)
    export.add_command(commands)
    checkpoint.add_commands(commands)
    report.add_command(commands)
    bench.add_commands(commands)
    schema.add_command(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
