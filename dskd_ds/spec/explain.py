"""Turns pydantic's validation errors into messages with key, value, reason and way out."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dskd_ds.spec.problems import ProblemsError, show
from dskd_ds.spec.run import RunSpec

REASONS = {
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "float_parsing": "it must be a number",
    "float_type": "it must be a number",
    "int_from_float": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_type": "it must be a whole number",
    "model_type": "it must be a section",
    "string_type": "it must be a string",
    "tuple_type": "it must be a list",
}
"""Reasons by pydantic's error type, where its own message speaks of Python or of its parser."""
REPLACED_KEYS = {
    "senses.paper_exact": (
        "it was replaced by one key per choice: delete the line if it is false. If it is true, set"
        ' min_span_tokens = 2, own_in_pull = "with_synonyms", own_in_push = "with_antonyms",'
        ' positions = "independent" and position_rounding = "down" in [senses]'
        ' (docs/method.md, "Positions" and "Candidates").'
    ),
}
"""Keys of earlier versions, and what takes their place."""
PLAIN_WORDS = {
    "Input should be": "it must be",
    "Tuple should have": "it must have",
    "String should match": "it must match the",
    " after validation": "",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}
"""What replaces parts of pydantic's other messages."""


def explain(error: ValidationError, root: type[BaseModel] = RunSpec) -> list[str]:
    """Return one message for each thing that is wrong with a spec.

    root: the model that was validated; a run spec unless another one is given.
    """
    messages: list[str] = []
    for details in error.errors():
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, ProblemsError):
            messages += [str(problem) for problem in cause.problems]
        else:
            messages.append(_message(details, root))
    return messages


def _message(details: ErrorDetails, root: type[BaseModel]) -> str:
    """Return the message for one wrong, unknown or missing key."""
    *section, name = [str(part) for part in details["loc"]] or ["(spec)"]
    element = ""
    if details["loc"] and isinstance(details["loc"][-1], int):
        # An element of a list has neither a name nor a docstring: the list's are used.
        element = f"[{name}]"
        *section, name = section
    where = f"[{'.'.join(section)}] " if section else ""
    if details["type"] == "extra_forbidden":
        replaced = REPLACED_KEYS.get(".".join([*section, name]))
        return f"{where}{name}: unknown key.\n  {replaced or _nearest(root, section, name)}"
    if details["type"] == "missing":
        return f"{where}{name}{element} is missing.\n  add it: {_describe(root, section, name)}"
    found = f"{where}{name}{element} = {show(details['input'])}"
    return f"{found}, but {_reason(details)}.\n  {_describe(root, section, name)}"


def _reason(details: ErrorDetails) -> str:
    """Return why a value is invalid, as the end of the sentence "KEY = VALUE, but ..."."""
    if details["type"] in REASONS:
        return REASONS[details["type"]]
    message = details["msg"]
    for phrase, plain in PLAIN_WORDS.items():
        message = message.replace(phrase, plain)
    return message[0].lower() + message[1:]


def _section_model(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic model in a field's annotation (`X`, `tuple[X, ...]`), or None."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _model_at(root: type[BaseModel], section: list[str]) -> type[BaseModel]:
    """Return the pydantic model of a section, e.g. ['data', 'train', '0'] -> SourceSpec.

    Below a field that is a plain table, it is the model that has the field.
    """
    model = root
    for part in section:
        if part.isdigit():
            continue
        field = model.model_fields.get(part)
        inner = _section_model(field.annotation) if field else None
        if inner is None:
            return model
        model = inner
    return model


def _nearest(root: type[BaseModel], section: list[str], name: str) -> str:
    """Return a hint for an unknown key: a similar key, the section that has it, or all keys."""
    known_keys = list(_model_at(root, section).model_fields)
    # A key in the wrong section is spelled correctly, so only exact names are looked for.
    for other, field in root.model_fields.items():
        model = _section_model(field.annotation)
        if model is not None and name in model.model_fields:
            return f"it belongs to [{other}]."
    near = difflib.get_close_matches(name, known_keys, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    return f"known keys: {', '.join(known_keys)}."


def _describe(root: type[BaseModel], section: list[str], name: str) -> str:
    """Return the docstring of a field on one line."""
    field = _model_at(root, section).model_fields.get(name)
    if field is None or not field.description:
        return f"a value of {name}"
    return field.description.replace("\n", " ")
