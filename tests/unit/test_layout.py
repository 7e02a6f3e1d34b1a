"""The package's module names are free, and the README's commands and paths exist."""

from __future__ import annotations

import ast
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


def test_every_text_file_names_its_encoding() -> None:
    """Files are written in UTF-8; the locale of whoever reads them may be another one.

    Ruff's PLW1514 sees only `Path(...)` itself, not a path in a variable.
    """
    found = []
    for path in sorted(Path("dskd_ds").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _leaves_encoding_to_the_locale(node):
                found.append(f"{path}:{node.lineno}")
    assert not found


def _leaves_encoding_to_the_locale(call: ast.Call) -> bool:
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    match call.func:
        case ast.Attribute(attr="read_text"):
            return True
        case ast.Attribute(attr="write_text"):
            return len(call.args) == 1  # files.atomic.write_text has a path too
        case ast.Attribute(attr="open" | "fdopen") | ast.Name(id="open"):
            modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
            return not call.args or any(re.fullmatch(r"[rwax]\+?t?", str(m)) for m in modes)
    return False


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
