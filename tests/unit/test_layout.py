"""The package's module names are free, and the README's commands and paths exist."""

from __future__ import annotations

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from dskd_ds.commands import cli


def test_no_module_of_the_package_hides_an_installed_one() -> None:
    """`deepspeed dskd_ds/train.py` puts dskd_ds/ first on sys.path, before all other modules."""
    modules = {path.stem for path in Path("dskd_ds").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in Path("dskd_ds").glob("*/__init__.py")}
    others = set(sys.stdlib_module_names) | set(packages_distributions()) - {"dskd_ds"}
    assert not (modules | packages) & others


def test_the_readmes_commands_exist() -> None:
    """Every `dskd` line of the README parses, and every file that it names exists.

    CI runs the README's two make commands.
    """
    readme = Path("README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
    lines = [line.strip().removeprefix(".venv/bin/") for line in "\n".join(blocks).splitlines()]
    without_comments = [line.split("#")[0] for line in lines if line.startswith("dskd ")]
    assert len(without_comments) >= 4
    for line in without_comments:
        argv = line.split()[1:]
        assert cli.parser().parse_args(argv).command
    for path in re.findall(r"`((?:ds_configs|dskd_ds|tests|slurm|tools)/[\w./]+)`", readme):
        assert Path(path).exists(), path
