"""Opens a text that `dskd data pack` has packed, after comparing it with the text as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict, cast

from dskd_ds.data.arrow_shards import ArrowShards, shard_name
from dskd_ds.data.lost import refuse_lost, refuse_lost_rows
from dskd_ds.data.pack_origin import Origin, difference, origin_of, paths_of
from dskd_ds.data.text_parts import TextPart, text_parts
from dskd_ds.errors import InputError
from dskd_ds.files.manifest import MANIFEST_FILE, file_problem, parse_manifest
from dskd_ds.spec.data import DataSpec

PACK_AGAIN = "pack the text again: dskd data pack SPEC"


class SourceCounts(TypedDict):
    """Rows of a source of conversations."""

    num_rows: int
    num_lost: int
    """Malformed ones."""


class PackFacts(TypedDict):
    """What the manifest of a packed text says besides its files."""

    origin: Origin
    rows: list[int]
    """Number of blocks, or rows, of each shard."""
    num_tokens: int
    """Tokens of the text, without padding."""
    num_documents: int
    """Training documents; for blocks, only conversations are counted."""
    num_lost: int
    """Documents that are not whole in any row; for blocks, only conversations are counted."""
    chat_sources: dict[str, SourceCounts]
    """By section of the spec."""


class PackedBlocks(ArrowShards):
    """The blocks, or rows, of a packed part."""

    def __init__(self, folder: Path, facts: PackFacts) -> None:
        super().__init__(folder, facts["rows"])
        self.num_tokens = facts["num_tokens"]


def open_packed(part: TextPart, tokenizer: Any, max_tokens: int | None) -> PackedBlocks:
    """Return the packed blocks of a part.

    max_tokens: the longest row that the models read, for packing = "none".
    Raises InputError if the part is not packed, if it was packed of another text, by another
    tokenizer or with other settings, if a file has another size, or if too much of it is lost.
    """
    folder = part.folder
    name = f'[data] packed = "{part.data.packed}"'
    if not (folder / MANIFEST_FILE).is_file():
        raise InputError(
            f"{name}, but {folder} holds no packed text.\n"
            "  pack the text first: dskd data pack SPEC; or remove packed."
        )
    facts, files = read_facts(folder)
    now = origin_of(part, tokenizer, max_tokens)
    changed = difference(facts["origin"], now, paths_of(part))
    if changed:
        raise InputError(
            f"{name}, but the text is not the one in {folder}: {changed}.\n  {PACK_AGAIN}."
        )
    for number in range(len(facts["rows"])):
        problem = file_problem(folder / shard_name(number), files[shard_name(number)], verify=False)
        if problem:
            raise InputError(f"{name}: {problem}.\n  {PACK_AGAIN}.")
    refuse_lost_of(part.data, facts)
    return PackedBlocks(folder, facts)


def read_facts(folder: Path) -> tuple[PackFacts, dict[str, Any]]:
    """Return the facts and the files of a packed text. Raises InputError for a wrong manifest."""
    facts, files = parse_manifest(folder)
    if set(facts) != set(PackFacts.__annotations__):
        raise InputError(
            f"{folder / MANIFEST_FILE}: this is not the manifest of a packed text.\n"
            "  name another folder in [data] packed."
        )
    return cast(PackFacts, facts), dict(files)


def refuse_lost_of(data: DataSpec, facts: PackFacts) -> None:
    """Raise InputError if more conversations are lost than [data] max_lost_fraction allows."""
    for key, counts in facts["chat_sources"].items():
        num_rows, num_lost = counts["num_rows"], counts["num_lost"]
        refuse_lost(
            data, key, num_rows, num_lost, reason="they are malformed", way_out="mend those rows"
        )
    refuse_lost_rows(
        data, facts["num_documents"], facts["num_lost"], in_blocks=data.packing == "blocks"
    )


def check_packed(data: DataSpec, tokenizer: Any, max_tokens: int | None) -> str | None:
    """Return a line about the packed text of a spec, or None if the text is not packed.

    Raises InputError as `open_packed` does.
    """
    if data.packed is None:
        return None
    parts = [open_packed(part, tokenizer, max_tokens) for part in text_parts(data)]
    num_rows, num_tokens = sum(map(len, parts)), sum(part.num_tokens for part in parts)
    unit = "blocks" if data.packing == "blocks" else "rows"
    return f"text: packed in {data.packed}, {num_tokens:,} tokens in {num_rows:,} {unit}"
