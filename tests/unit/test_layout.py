"""What the whole package and the README promise."""

from __future__ import annotations

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from dskd_ds.commands import cli


def test_nothing_in_the_package_hides_a_module_that_others_import() -> None:
    """`deepspeed dskd_ds/train.py` puts dskd_ds/ first on sys.path."""
    mine = {
        path.stem
        for path in Path("dskd_ds").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    } - {"__init__"}
    others = set(sys.stdlib_module_names) | set(packages_distributions()) - {"dskd_ds"}
    assert not mine & others


def test_the_readmes_commands_exist() -> None:
    """Every `dskd` line of the README parses; every file it names is there. (CI runs its two make commands.)"""
    readme = Path("README.md").read_text()
    commands = [
        line.strip().removeprefix(".venv/bin/")
        for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
        for line in block.splitlines()
    ]
    dskd = [line.split("#")[0].split()[1:] for line in commands if line.startswith("dskd ")]
    assert len(dskd) >= 4
    for words in dskd:
        assert cli.parser().parse_args(words).command
    for path in re.findall(r"`((?:ds_configs|dskd_ds|tests|slurm|tools)/[\w./]+)`", readme):
        assert Path(path).exists(), path
