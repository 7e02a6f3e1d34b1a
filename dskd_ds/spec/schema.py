"""The JSON schema of run specs: editors complete keys and show their docstrings with it."""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from dskd_ds.spec.run import RunSpec

NOTE = (
    "A run of dskd-ds. Rules that join several keys are not part of this schema:"
    " `dskd train FILE --dry-run` checks them."
)


class _SpecSchema(GenerateJsonSchema):
    """Leaves out the title that pydantic derives from each field's name: it repeats the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema  # the same answer for every field
        return False


def spec_schema() -> dict[str, Any]:
    """Return the JSON schema of a run spec (draft 2020-12), with docstrings as descriptions."""
    schema: dict[str, Any] = _with_whole_lines(
        RunSpec.model_json_schema(schema_generator=_SpecSchema)
    )
    heading = {"title": "dskd run spec", "description": NOTE}
    return {"$schema": _SpecSchema.schema_dialect} | schema | heading


def schema_text() -> str:
    """Return the schema as JSON text that ends with a newline."""
    return json.dumps(spec_schema(), indent=2, ensure_ascii=False) + "\n"


def _with_whole_lines(node: Any) -> Any:
    """Join the lines of every description: the breaks only fit the source's width."""
    if isinstance(node, list):
        return [_with_whole_lines(item) for item in node]
    if not isinstance(node, dict):
        return node
    joined = {key: _with_whole_lines(item) for key, item in node.items()}
    description = joined.get("description")
    if isinstance(description, str):
        joined["description"] = " ".join(description.split())
    return joined
