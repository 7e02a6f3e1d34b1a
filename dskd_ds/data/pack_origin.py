"""What a packed text was made of: settings, tokenizer and files; and how the text differs now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from dskd_ds.data.blocks import PACK_DOCUMENTS, train_layout
from dskd_ds.data.chat import chat_format
from dskd_ds.data.documents import matching_files
from dskd_ds.data.known_digest import known_sha256
from dskd_ds.data.packing import begin_ids
from dskd_ds.data.text_parts import TextPart
from dskd_ds.models.resolve import tokenizer_digest
from dskd_ds.spec.data import SourceSpec

VERSION = 1
"""Version of the format and of everything that makes documents and blocks; raise it with them."""

CHAT = "chat template and special tokens"
"""Setting of a text with conversations."""


class OriginFile(TypedDict):
    """A file of a source."""

    name: str
    bytes: int
    modified_ns: int
    sha256: str | None
    """None until it is needed."""


class Origin(TypedDict):
    """Everything that a packed text depends on, as JSON."""

    settings: dict[str, Any]
    """Values by their key in the spec, or by their name."""
    files: dict[str, list[OriginFile]]
    """The files of each local source, in order. A hub dataset has none; its name is a setting."""


def origin_of(part: TextPart, tokenizer: Any, max_tokens: int | None) -> Origin:
    """Return what a part would be packed of now. Files are not read, only looked at.

    max_tokens: the longest row that the models read. Raises InputError for a missing file.
    """
    data = part.data
    layout = train_layout(data, tokenizer, max_tokens)
    settings: dict[str, Any] = {
        "version of the format": VERSION,
        "documents per group": PACK_DOCUMENTS,
        "tokenizer": tokenizer_digest(tokenizer),
        "token before each document": begin_ids(tokenizer),
        "rows": layout.version,
        **{f"{data.packing}.{name}": value for name, value in layout.settings.items()},
    }
    if any(source.format == "chat" for source in (*data.train, *data.heldout)):
        settings[CHAT] = chat_format(data.chat_template, tokenizer).fingerprint
    if not data.heldout:
        settings["heldout_fraction"] = data.heldout_fraction
    files: dict[str, list[OriginFile]] = {}
    for key, source in _sources(part):
        paths = matching_files(source.path, key)
        files[key] = [_origin_file(Path(path)) for path in paths]
        left_out = {"weight", "teacher"}
        if paths:  # they may be other paths to the same files
            left_out.add("path")
        settings[key] = source.model_dump(mode="json", exclude=left_out)
    return Origin(settings=settings, files=files)


def _sources(part: TextPart) -> Iterator[tuple[str, SourceSpec]]:
    """Yield every source that decides about the training documents, by its section."""
    for index, source in enumerate(part.data.train):
        yield f"data.train.{part.first_source + index}", source
    for index, source in enumerate(part.data.heldout):
        yield f"data.heldout.{index}", source


def paths_of(part: TextPart) -> list[Path]:
    """Return the paths of all files of an origin, in its order."""
    found = (matching_files(source.path, key) for key, source in _sources(part))
    return [Path(path) for paths in found for path in paths]


def _origin_file(path: Path) -> OriginFile:
    status = path.stat()
    return OriginFile(
        name=path.name, bytes=status.st_size, modified_ns=status.st_mtime_ns, sha256=None
    )


def origin_digest(origin: Origin) -> str:
    """Return a digest of an origin, for the work of a job that was killed."""
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def difference(packed: Origin, now: Origin, paths: Sequence[Path]) -> str | None:
    """Return how a text differs from what was packed, as a clause, or None if it does not.

    paths: the files of `now`. A file with the same size and another time of modification is read
    once: only its content counts.
    """
    before, after = packed["settings"], now["settings"]
    if CHAT in after and "chat_template" in before:
        return f"an older version of dskd-ds packed it, which did not record the {CHAT}"
    for key in packed["files"]:
        if key not in now["files"]:
            return f"its source [{key}] is not in the spec any more"
    for name in dict.fromkeys([*after, *before]):
        if before.get(name) != after.get(name):
            return (
                f"{name} was {_short(before.get(name, 'nothing'))}, now"
                f" {_short(after.get(name, 'nothing'))}"
            )
    remaining = iter(paths)
    for key, files in now["files"].items():
        packed_files = packed["files"].get(key, [])
        if [file["name"] for file in files] != [file["name"] for file in packed_files]:
            return f"[{key}] has other files now"
        for file, packed_file in zip(files, packed_files, strict=True):
            path = next(remaining)
            if file["bytes"] != packed_file["bytes"]:
                return f"{path} had {packed_file['bytes']} bytes and now has {file['bytes']}"
            is_newer = file["modified_ns"] != packed_file["modified_ns"]
            if is_newer and known_sha256(path) != packed_file["sha256"]:
                return f"{path} has another content now"
    return None


def _short(value: Any) -> str:
    return str(value)[:80]
