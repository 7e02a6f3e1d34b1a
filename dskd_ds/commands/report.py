"""`dskd report`: writes one page about a run."""

from __future__ import annotations

import argparse

from dskd_ds.runtime.arguments import Commands, spec_command, spec_of


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd report`."""
    command = spec_command(
        commands, "report", "write report.html: curves, tables and samples of a run"
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Write the report and print its path."""
    from dskd_ds.commands.report_page import write_report

    print(write_report(spec_of(args)))
    return 0
