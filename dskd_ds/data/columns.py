"""Checks the columns of a source against its spec."""

from __future__ import annotations

from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.spec.data import SourceSpec


def checked_columns(loaded: Any, source: SourceSpec, key: str) -> list[str]:
    """Return the columns of a loaded source.

    Raises InputError if it lacks a column that its spec names or its format needs.
    """
    columns = list(loaded.column_names or loaded.features or _first_row(loaded))
    if not columns:
        raise InputError(
            f'[{key}] path = "{source.path}", but its first rows cannot be read, so its columns are'
            " unknown.\n  look at its first line: it is empty or damaged."
        )
    wanted = {"title_field": source.title_field}
    if source.format == "text":
        wanted["text_field"] = source.text_field
    for field, name in wanted.items():
        if name is not None and name not in columns:
            raise InputError(
                f'[{key}] {field} = "{name}", but {source.path} has the columns {columns}.\n'
                "  name one of those."
            )
    has_conversations = "messages" in columns or {"prompt", "completion"} <= set(columns)
    if source.format == "chat" and not has_conversations:
        raise InputError(
            f'[{key}] format = "chat", but {source.path} has the columns {columns}.\n'
            "  a conversation is a row with `messages`, or with `prompt` and `completion`."
        )
    return columns


def _first_row(loaded: Any) -> dict[str, Any]:
    """Return the first row of a streamed source; empty if it has none, or a damaged one.

    `datasets` knows the columns of a streamed .txt file only from its rows.
    """
    try:
        return dict(next(iter(loaded), {}))
    except Exception:  # as in load_source
        return {}
