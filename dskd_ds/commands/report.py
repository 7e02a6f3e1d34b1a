"""`dskd report`: writes one page about a run."""

from __future__ import annotations

import argparse

from dskd_ds.runtime.arguments import Commands, spec_command, spec_of

TEXT = """\
Write report.html into the run directory: one page without other files, with the spec, the
curves of metrics.jsonl, and the numbers of the dictionary. After `dskd eval` it also has
perplexity, KL and samples. A run that is not finished can be reported too."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd report`."""
    command = spec_command(
        commands,
        "report",
        "write report.html: curves, tables and samples of a run",
        description=TEXT,
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Write the report and print its path."""
    from dskd_ds.commands.report_page import write_report

    print(write_report(spec_of(args)))
    return 0
