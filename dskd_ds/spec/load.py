"""Reads a spec from a TOML file and `--set` overrides, and writes it back as TOML."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from dskd_ds.errors import InputError
from dskd_ds.spec.explain import explain
from dskd_ds.spec.home import dskd_home
from dskd_ds.spec.run import RunSpec
from dskd_ds.spec.shipped import RUN_SPECS, shipped_file

SPEC_FILE = "spec.toml"
"""Name of the copy of the spec in a run directory."""
HOME_VARIABLE = re.compile(r"\$(DSKD_HOME\b|\{DSKD_HOME\})")
"""Both ways to write it, as os.path.expandvars reads them."""


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> RunSpec:
    """Read and validate a spec.

    path: a TOML file, counted from the current folder, else a shipped one (`ds_configs/runs/...`).
    overrides: `section.key=value` each, the value in TOML's notation (a bare word is a string).
    Raises InputError that names file, key, value, reason and way out.
    """
    tree = read_toml(shipped_file(path, RUN_SPECS, f"{path}: "))
    for override in overrides:
        _apply_override(tree, override)
    source = f"{path} with --set" if overrides else str(path)
    try:
        # Expanded after the overrides, so that they too may contain ~ and $VARIABLES.
        return RunSpec.model_validate(expand(tree))
    except ValidationError as error:
        messages = [f"{source}: {message}" for message in explain(error)]
        raise InputError("\n".join(messages)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return the file's content as a tree.

    Raises InputError if it cannot be read, or is not TOML in UTF-8.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: this file cannot be read: {error.strerror}.\n"
            "  name a TOML file that you may read."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: this is not a TOML file: {error}.\n"
            "  correct it, or write a new spec with `dskd init FILE.toml`."
        ) from None


def write_spec(spec: RunSpec, path: Path) -> None:
    """Write the resolved spec (every default filled in) as TOML, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(spec_toml(spec), encoding="utf-8")
    partial.replace(path)


def spec_toml(spec: RunSpec) -> str:
    """Return the resolved spec as TOML, without the keys that have no value."""
    return tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True))


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one key of the tree from `section.key=value`. Raises InputError for any other form."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise InputError(
            f"--set {override}: this is not of the form section.key=value.\n"
            "  example: --set train.num_steps=100"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # A bare word is not a TOML value. Quotes would have to be protected from the shell.
        value = text.strip()
    *sections, name = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if isinstance(tree, list):
            raise InputError(
                f"--set {override}: {section} is a list of sections, of which --set changes none.\n"
                "  edit the file, or give the whole list in the form [{key = value}, ...]."
            )
        if not isinstance(tree, dict):
            raise InputError(
                f"--set {override}: {section} is not a section.\n"
                "  give a key of the form section.key, as in train.num_steps."
            )
    tree[name] = value


def expand(value: Any) -> Any:
    """Replace `~` and `$VARIABLES` in every string of a tree. `$DSKD_HOME` always has a value."""
    if isinstance(value, dict):
        return {key: expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item) for item in value]
    if isinstance(value, str):
        expanded = os.path.expandvars(HOME_VARIABLE.sub(lambda _: str(dskd_home()), value))
        return _expand_user(expanded) if expanded.startswith("~") else expanded
    return value


def _expand_user(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # there is no such user: whatever reads the path says that it is missing
        return path
