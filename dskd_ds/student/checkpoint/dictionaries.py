"""A run goes on with the sense dictionaries that it began with, or says that they were replaced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import parse_manifest
from dskd_ds.senses.dictionary.facts import SENSES_FILE
from dskd_ds.spec import RunSpec

DICTIONARIES = "dictionaries"
"""Key of a checkpoint's facts. Checkpoints of earlier versions, and of runs without senses, lack
it."""


def dictionary_digests(spec: RunSpec) -> dict[str, str]:
    """Return folder -> SHA-256 of the senses, for each dictionary that a run opens.

    They are those that the manifests record. Raises InputError if one cannot be read.
    """
    folders = [term.dictionary for term in spec.loss.terms if term.dictionary is not None]
    if spec.uses_senses:
        folders.append(spec.senses.dictionary)
    return {
        folder: str(parse_manifest(Path(folder))[1][SENSES_FILE]["sha256"])
        for folder in sorted(set(folders))
    }


def refuse_other_dictionaries(
    checkpoint: Path, facts: dict[str, Any], digests: Mapping[str, str]
) -> None:
    """Raise InputError if a dictionary was replaced since a checkpoint was saved.

    facts: of the checkpoint. digests: dictionary_digests of the run.
    """
    before = facts.get(DICTIONARIES, {})
    for folder, digest in digests.items():
        if before.get(folder, digest) != digest:
            raise InputError(
                f"{folder}: this dictionary is another one than that of {checkpoint}.\n"
                "  put the old one back, or set another run_dir to start again."
            )
