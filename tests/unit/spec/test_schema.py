"""The JSON schema of run specs: it is current, accepts what ships, and refuses what is wrong."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dskd_ds.spec.schema import schema_text, spec_schema
from dskd_ds.spec.shipped import RUN_SPECS, shipped_files

STORED = Path("ds_configs/spec.schema.json")
SPECS = [Path(name) for name in shipped_files(RUN_SPECS)]
VALIDATOR = Draft202012Validator(spec_schema())


def quickstart() -> dict[str, Any]:
    return tomllib.loads(Path("tests/base_run.toml").read_text())


def test_the_stored_copy_is_current() -> None:
    hint = "run: dskd schema --output ds_configs/spec.schema.json"
    assert STORED.read_text() == schema_text(), hint


def test_it_is_a_valid_schema_of_the_draft_that_it_names() -> None:
    schema = json.loads(STORED.read_text())
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_shipped_spec_names_the_schema_and_is_valid(path: Path) -> None:
    text = path.read_text()
    directive, _, relative = text.splitlines()[0].partition(" ")
    assert directive == "#:schema"
    assert (path.parent / relative).resolve() == STORED.resolve()
    assert not list(VALIDATOR.iter_errors(tomllib.loads(text)))


def test_an_unknown_key_is_refused() -> None:
    tree = quickstart()
    tree["loss"]["temprature"] = 2.0
    errors = list(VALIDATOR.iter_errors(tree))
    assert [list(error.path) for error in errors] == [["loss"]]
    assert "temprature" in errors[0].message


def test_a_wrong_value_and_a_missing_key_are_refused() -> None:
    tree = quickstart()
    tree["loss"]["signal"] = "full"
    del tree["topology"]["num_students"]
    assert sorted(error.path[0] for error in VALIDATOR.iter_errors(tree)) == ["loss", "topology"]


def test_every_key_has_a_description_on_one_line() -> None:
    schema = spec_schema()
    models = schema["$defs"]
    for name, model in {"RunSpec": schema, **models}.items():
        for key, field in model["properties"].items():
            referred = models.get(field.get("$ref", "").rpartition("/")[2], {})
            description = field.get("description") or referred.get("description")
            assert description, f"{name}.{key}"
            assert "\n" not in description, f"{name}.{key}"
