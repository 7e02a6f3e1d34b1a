"""TOML file and `--set` overrides -> RunSpec, with one clear message for whatever is wrong; and back to TOML."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from dskd_ds.errors import InputError
from dskd_ds.spec.rules import ProblemsError, show
from dskd_ds.spec.run import RunSpec

SPEC_FILE = "spec.toml"


def dskd_home() -> Path:
    """Folder for what is fetched or derived once and used by many runs: `$DSKD_HOME`, or `~/.cache/dskd`."""
    return Path(os.environ.get("DSKD_HOME", "~/.cache/dskd")).expanduser()


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> RunSpec:
    """Read a spec.

    path: a TOML file. overrides: `section.key=value`, the value in TOML's notation (a bare word counts as a string).
    Raises InputError, naming file, key, value, reason and way out.
    """
    path = Path(path)
    tree = read_toml(path)
    for override in overrides:
        _apply_override(tree, override)
    source = f"{path}" + (" with --set" if overrides else "")
    try:
        return RunSpec.model_validate(_expand(tree))
    except ValidationError as error:
        raise InputError("\n".join(f"{source}: {line}" for line in _explain(error))) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tree. Raises InputError if it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.toml")], n=1
        )
        hint = (
            f"did you mean {path.parent / near[0]}?"
            if near
            else "see ds_configs/runs/ for the specs that come with it."
        )
        raise InputError(f"{path}: there is no such file.\n  {hint}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"{path}: this is not a TOML file: {error}.") from None


def write_spec(spec: RunSpec, path: Path) -> None:
    """Write the resolved spec (every default filled in) as TOML, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(spec_toml(spec), encoding="utf-8")
    partial.replace(path)


def spec_toml(spec: RunSpec) -> str:
    """The resolved spec as TOML; keys that were not given and have no default are left out."""
    return tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True))


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise InputError(
            f"--set {override}: this is not of the form section.key=value.\n  example: --set train.num_steps=100"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, name = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(
                f"--set {override}: {section} is not a section.\n  give a key as section.key"
            )
    tree[name] = value


def _expand(value: Any) -> Any:
    """Replace `~` and `$VARIABLES` in every string; `$DSKD_HOME` always has a value."""
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    if isinstance(value, str):
        expanded = os.path.expandvars(value.replace("$DSKD_HOME", str(dskd_home())))
        return str(Path(expanded).expanduser()) if expanded.startswith("~") else expanded
    return value


def _explain(error: ValidationError) -> list[str]:
    """One message for each error pydantic found."""
    lines: list[str] = []
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ProblemsError):
            lines += [str(problem) for problem in cause.problems]
            continue
        *section, name = [str(part) for part in item["loc"]] or ["(spec)"]
        element = ""
        if item["loc"] and isinstance(
            item["loc"][-1], int
        ):  # of a list: it has no name and no docstring of its own
            element = f"[{name}]"
            *section, name = section
        where = f"[{'.'.join(section)}] " if section else ""
        if item["type"] == "extra_forbidden":
            lines.append(f"{where}{name}: there is no such key.\n  {_nearest(section, name)}")
        elif item["type"] == "missing":
            lines.append(
                f"{where}{name}{element} is missing.\n  add it: {_describe(section, name)}"
            )
        else:
            reason = item["msg"][0].lower() + item["msg"][1:]
            lines.append(
                f"{where}{name}{element} = {show(item['input'])}, but {reason}.\n  {_describe(section, name)}"
            )
    return lines


def _model_at(section: list[str]) -> type[BaseModel]:
    """The pydantic model of a section, e.g. ['data', 'train', '0'] -> SourceSpec."""
    model: type[BaseModel] = RunSpec
    for part in section:
        if part.isdigit():
            continue
        annotation: Any = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return model


def _nearest(section: list[str], name: str) -> str:
    fields = list(_model_at(section).model_fields)
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    elsewhere = [
        s
        for s, f in RunSpec.model_fields.items()
        if isinstance(f.annotation, type)
        and issubclass(f.annotation, BaseModel)
        and name in f.annotation.model_fields
    ]
    if elsewhere and not near:
        return f"it belongs to [{elsewhere[0]}]."
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(fields)}."


def _describe(section: list[str], name: str) -> str:
    field = _model_at(section).model_fields.get(name)
    return (field.description if field and field.description else f"a value of {name}").replace(
        "\n", " "
    )
