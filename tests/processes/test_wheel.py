"""A wheel holds the shipped configurations, and its commands work from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.process
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "dskd_ds", "ds_configs", "slurm")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of a wheel that was built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if Path(name).is_dir():
            caches = shutil.ignore_patterns("__pycache__")
            shutil.copytree(name, source / name, symlinks=True, ignore=caches)
        else:
            shutil.copy(name, source / name)
    # No isolation and no index: the build uses this environment's setuptools and no network.
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("dskd_ds-*.whl"))) as wheel:
        wheel.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The folder in which commands are run."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def python(installed: Path, empty: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the empty folder with the wheel's content first on its path."""
    home = str(empty.parent / "home")
    environment = os.environ | {"PYTHONPATH": str(installed), "DSKD_HOME": home}
    return subprocess.run(
        [sys.executable, *argv], cwd=empty, env=environment, capture_output=True, text=True
    )


def dskd(installed: Path, empty: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return python(installed, empty, "-m", "dskd_ds.commands.cli", *argv)


def test_the_wheels_package_is_what_runs(installed: Path, empty: Path) -> None:
    ended = python(installed, empty, "-c", "import dskd_ds; print(dskd_ds.__file__)")
    assert ended.stdout.strip() == str(installed / "dskd_ds" / "__init__.py")


def test_it_holds_every_configuration_and_page(installed: Path) -> None:
    shipped = Path("ds_configs")
    wanted = {path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()}
    unpacked = installed / "dskd_ds" / "ds_configs"
    found = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    assert found == wanted
    scripts = {path.name for path in Path("slurm").iterdir()}
    assert {path.name for path in (installed / "dskd_ds" / "slurm").iterdir()} == scripts
    assert (installed / "dskd_ds" / "commands" / "report_template.html").is_file()
    docs = {path.name for path in Path("dskd_ds/docs").iterdir()}
    assert {path.name for path in (installed / "dskd_ds" / "docs").iterdir()} == docs


def test_init_and_schema_work(installed: Path, empty: Path) -> None:
    ended = dskd(installed, empty, "init", "mine.toml", "--teacher", "a/b", "--text", "c/d")
    assert ended.returncode == 0, ended.stderr
    directive = (empty / "mine.toml").read_text().splitlines()[0]
    schema = installed / "dskd_ds" / "ds_configs" / "spec.schema.json"
    assert directive == f"#:schema {schema}"
    assert dskd(installed, empty, "schema").stdout == schema.read_text()
    listed = dskd(installed, empty, "init", "--list").stdout
    assert "ds_configs/runs/quickstart.toml" in listed
    assert "ds_configs/zero3_cpu.json" in listed


def test_shipped_names_are_found(installed: Path, empty: Path) -> None:
    """Spec and DeepSpeed file are found; the first missing file is one that was not fetched."""
    ended = dskd(installed, empty, "train", "ds_configs/runs/quickstart.toml", "--dry-run")
    assert ended.returncode == 2
    assert "quickstart/wikipedia_leads.jsonl" in ended.stderr
    ended = dskd(installed, empty, "train", "ds_configs/runs/quikstart.toml", "--dry-run")
    assert "did you mean ds_configs/runs/quickstart.toml?" in ended.stderr
    assert not list(empty.iterdir())
