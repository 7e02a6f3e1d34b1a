"""The run specs and DeepSpeed configurations that ship with the package, and how a file is found.

A checkout has them in `ds_configs/`, to which `dskd_ds/ds_configs` is a link; a wheel has copies
inside of the package.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError

FOLDER = "ds_configs"
"""Name of the folder. A path that starts with it can mean a shipped file."""
SCHEMA_FILE = "spec.schema.json"
"""JSON schema of run specs, for editors; written by `dskd schema`."""
CLOSE_ENOUGH = 0.6
"""Similarity (difflib's ratio, 0 to 1) from which a file name is suggested."""


@dataclass(frozen=True)
class FileKind:
    """One of the kinds of configuration files that ship."""

    title: str
    """What a list of these files is called."""
    way_out: str
    """What to do if a file of this kind is missing; the shipped names follow."""
    patterns: tuple[str, ...]
    """Where they are in the shipped folder, as globs."""
    recognises: Callable[[Path], bool]
    """Whether a file that exists is of this kind, by its content."""


def is_run_spec(path: Path) -> bool:
    """Return whether the file is TOML with a key that only run specs have."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False
    return not tree.keys().isdisjoint({"run_dir", "teacher", "student", "senses"})


def is_deepspeed_config(path: Path) -> bool:
    """Return whether the file is JSON with ZeRO settings."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return False
    return isinstance(content, dict) and "zero_optimization" in content


DEEPSPEED_USES = {
    "zero0.json": "ZeRO-0: a single student rank; nothing is sharded.",
    "zero2.json": "ZeRO-2: the whole student fits on each GPU; the rest is sharded.",
    "zero3.json": "ZeRO-3: the usual choice on GPUs; the student's weights are sharded too.",
    "zero3_cpu.json": "ZeRO-3 for CPUs, as in the quickstart.",
    "zero3_offload.json": "ZeRO-3 with offloading to host memory, if zero3.json does not fit.",
    "zero_pp.json": "ZeRO++: several nodes with a slow network between them.",
}
"""When to take each shipped DeepSpeed configuration; the folder's README says more."""


def is_study(path: Path) -> bool:
    """Return whether the file is TOML with keys that only studies have."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False
    return tree.keys() >= {"base", "seeds"}


RUN_SPECS = FileKind(
    title="run specs",
    way_out="write one with `dskd init FILE.toml`, or use one that ships",
    patterns=("runs/*.toml", "paper/*.toml"),
    recognises=is_run_spec,
)
DEEPSPEED_CONFIGS = FileKind(
    title="DeepSpeed configurations",
    way_out="use one that ships",
    patterns=("*.json",),
    recognises=is_deepspeed_config,
)
STUDIES = FileKind(
    title="studies (dskd sweep)",
    way_out="write one as `dskd sweep --help` shows, or use one that ships",
    patterns=("studies/*.toml", "paper/*.toml"),
    recognises=is_study,
)


def shipped_folder() -> Path:
    """Return the folder inside of the package; in a checkout it is a link to the top-level one."""
    return Path(__file__).parents[1] / FOLDER


def shipped_files(kind: FileKind) -> dict[str, Path]:
    """Return the shipped files of a kind, by the name that a user gives (`ds_configs/...`)."""
    folder = shipped_folder()
    found = [path for pattern in kind.patterns for path in sorted(folder.glob(pattern))]
    paths = [path for path in found if kind.recognises(path)]
    return {f"{FOLDER}/{path.relative_to(folder).as_posix()}": path for path in paths}


def shipped_file(name: str | Path, kind: FileKind, prefix: str) -> Path:
    """Return the file that `name` means: counted from the current folder, else the shipped one.

    prefix: beginning of the error message, e.g. `deepspeed = "ds.json", but `.
    Raises InputError that suggests the closest name, or lists what ships.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():  # a pipe, as in `dskd train <(...)`, is fine
        return path
    shipped = shipped_files(kind)
    if path.as_posix() in shipped:
        return shipped[path.as_posix()]
    reason = "this is a folder" if path.is_dir() else "there is no such file"
    raise InputError(f"{prefix}{reason}.\n  {_hint(path, kind, list(shipped))}")


def _hint(path: Path, kind: FileKind, shipped: list[str]) -> str:
    """Return the way out for a missing file. Only files of the right kind are suggested."""
    # The user's own files beside the missing one are suggested as well.
    neighbours = sorted(path.parent.glob(f"*{Path(kind.patterns[0]).suffix}"))
    candidates = [str(file) for file in neighbours if kind.recognises(file)]
    by_stem = {Path(candidate).stem: candidate for candidate in [*shipped, *candidates]}
    near = difflib.get_close_matches(path.stem, by_stem, n=1, cutoff=CLOSE_ENOUGH)
    if near:
        return f"did you mean {by_stem[near[0]]}?"
    return f"{kind.way_out}: {', '.join(shipped)}."


def described_files(kind: FileKind) -> dict[str, str]:
    """Return each shipped file's one-line description by its name.

    A run spec's first comment describes it. JSON has no comments.
    """
    descriptions = {}
    for name, path in shipped_files(kind).items():
        is_toml = path.suffix == ".toml"
        descriptions[name] = _first_comment(path) if is_toml else DEEPSPEED_USES[path.name]
    return descriptions


def _first_comment(path: Path) -> str:
    """Return the first comment line that is no directive (`#:schema ...`)."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(line[2:].strip() for line in lines if line.startswith("# "))
