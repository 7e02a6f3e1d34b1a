"""How many senses a run's dictionary has, if it is built already. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from dskd_ds.files.manifest import MANIFEST_FILE, parse_manifest
from dskd_ds.spec import RunSpec

MANY_ROWS = 1 << 24
"""Rows assumed for a dictionary that does not exist yet: their numbers fit 3 bytes."""


def num_senses(spec: RunSpec) -> int | None:
    """Return the number of senses of the run's dictionary; None if it is not built, or unused.

    Raises InputError if its manifest is invalid.
    """
    return rows_of_dictionary(spec.senses.dictionary) if spec.uses_senses else None


def rows_of_dictionary(folder: str) -> int | None:
    """Return the number of senses of a dictionary; None if it is not built.

    Raises InputError if its manifest is invalid.
    """
    file = Path(folder) / MANIFEST_FILE
    if not file.is_file():
        return None
    facts, _ = parse_manifest(file.parent)
    return int(facts["num_rows"]) if "num_rows" in facts else None
