"""Options of sbatch that the user adds to those of the job scripts."""

from __future__ import annotations

import argparse

from dskd_ds.errors import InputError

OWN_OPTIONS = (
    "nodes",
    "ntasks-per-node",
    "gpus-per-node",
    "partition",
    "time",
    "signal",
    "output",
    "array",
)
"""Options of sbatch that the scripts set; they are refused in --sbatch."""
OWN_OF_TEACHERS = ("nodes", "signal", "output", "array")
"""Those that are refused in --het-sbatch too: the nodes of teachers may be of another kind."""


def further_options(args: argparse.Namespace) -> dict[str, str]:
    """Return the options of --sbatch: name -> value. Raises InputError."""
    options = _parsed("--sbatch", args.sbatch)
    refused = [key for key in options if key in OWN_OPTIONS]
    if refused:
        raise InputError(
            f"--sbatch {refused[0]}: the script sets this option itself.\n"
            "  use --partition, --time, --gpus-per-node, --ntasks-per-node or --signal-seconds;"
            " the number of nodes follows from [topology]."
        )
    return options


def teachers_options(args: argparse.Namespace) -> dict[str, str]:
    """Return the options of --het-sbatch: name -> value. Raises InputError."""
    options = _parsed("--het-sbatch", args.het_sbatch)
    if options and not (args.het or args.teachers_job):
        raise InputError(
            f"--het-sbatch {args.het_sbatch[0]}: it is for teachers in a part of their own, and"
            " here they have the students' options.\n"
            "  add --het or --teachers-job, or use --sbatch for the whole job."
        )
    refused = [key for key in options if key in OWN_OF_TEACHERS]
    if refused:
        raise InputError(
            f"--het-sbatch {refused[0]}: the script sets this option itself.\n"
            "  leave it out; the number of nodes follows from the number of teachers and from"
            " --teachers-per-node."
        )
    if args.het and "time" in options:
        raise InputError(
            "--het-sbatch time: the script is told of the students' limit only, so another one for"
            " the teachers would end the job without a save.\n"
            "  use --time, which is for both components, or --teachers-job instead of --het."
        )
    return options


def _parsed(flag: str, given: list[str]) -> dict[str, str]:
    """Return options of sbatch by name. flag: what they were given with. Raises InputError."""
    options = {}
    for text in given:
        key, separator, value = text.removeprefix("--").partition("=")
        if not key or " " in key or (separator and not value):
            raise InputError(
                f"{flag} {text}: this is not an option of sbatch.\n"
                f"  write {flag} KEY=VALUE or {flag} KEY, for example {flag} account=nlp."
            )
        options[key] = value
    return options
