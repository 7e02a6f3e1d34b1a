"""Sources of a spec -> documents with `text` and `title`, split into what is trained on and what is only evaluated on."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Container
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec
from dskd_ds.spec.data import SourceSpec

READERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
"""File ending -> the name of the reader in `datasets`."""


def text_digest(text: str) -> int:
    """64 bits that identify a document, the same on every machine; signed, as Arrow and torch store it."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def train_documents(spec: RunSpec) -> Any:
    """The documents to train on, as a `datasets.Dataset` (or `IterableDataset` if streamed) with columns text and title."""
    documents = _join([load_source(source, f"data.train.{i}", spec.data.stream) for i, source in enumerate(spec.data.train)])
    if spec.data.heldout:
        titles = {title for title in heldout_documents(spec)["title"] if title}
        return documents.filter(_title_not_in, fn_kwargs={"titles": dict.fromkeys(sorted(titles))}) if titles else documents
    return documents.filter(_is_train, fn_kwargs={"heldout_fraction": spec.data.heldout_fraction})


def heldout_documents(spec: RunSpec) -> Any:
    """The documents that are never trained on, as a `datasets.Dataset` with columns text and title."""
    if spec.data.heldout:
        return _join([load_source(source, f"data.heldout.{i}", stream=False) for i, source in enumerate(spec.data.heldout)])
    documents = _join([load_source(source, f"data.train.{i}", stream=False) for i, source in enumerate(spec.data.train)])
    return documents.filter(_is_heldout, fn_kwargs={"heldout_fraction": spec.data.heldout_fraction})


def load_source(source: SourceSpec, key: str, stream: bool) -> Any:
    """One source with the columns `text` and `title`. Raises InputError that names the spec's key."""
    import datasets

    files = matching_files(source.path)
    try:
        if files:
            # A line of a .txt file would be a document of its own; a paragraph is what a reader calls one.
            options = {"sample_by": "paragraph"} if READERS[Path(files[0]).suffix] == "text" else {}
            loaded = datasets.load_dataset(READERS[Path(files[0]).suffix], data_files=files, split="train",
                                           streaming=stream, **options)
        else:
            loaded = datasets.load_dataset(source.path, source.subset, split=source.split, streaming=stream)
    except Exception as error:  # datasets raises a dozen unrelated classes; the user needs one message for all
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise InputError(f'[{key}] path = "{source.path}", but it cannot be loaded: {reason}\n'
                         f"  name a hub dataset, or a file or glob ending in {', '.join(READERS)}.") from None
    return _two_columns(loaded, source, key)


def matching_files(path: str) -> list[str]:
    """The local files a source's path names, sorted; empty for a hub name. Raises InputError if a local path has no file."""
    files = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (absolute patterns too)
    suffix = Path(path).suffix
    if files and all(Path(file).suffix == suffix for file in files) and suffix in READERS:
        return files
    if files or suffix in READERS or path.startswith(("/", ".", "~")):
        raise InputError(f'[data] path = "{path}", but {"it is of no known kind" if files else "there is no such file"}.\n'
                         f"  name a file or glob ending in {', '.join(READERS)}, or a hub dataset.")
    return []


def _two_columns(loaded: Any, source: SourceSpec, key: str) -> Any:
    columns = list(loaded.column_names or loaded.features)
    for name, field in ((source.text_field, "text_field"), (source.title_field, "title_field")):
        if name is not None and name not in columns:
            raise InputError(f'[{key}] {field} = "{name}", but {source.path} has the columns {columns}.\n  name one of those.')
    return loaded.map(_pick, batched=True, remove_columns=columns,
                      fn_kwargs={"text_field": source.text_field, "title_field": source.title_field})


def _pick(rows: dict[str, list[Any]], text_field: str, title_field: str | None) -> dict[str, list[str]]:
    texts = [str(text or "") for text in rows[text_field]]
    titles = [str(title or "") for title in rows[title_field]] if title_field else [""] * len(texts)
    kept = [i for i, text in enumerate(texts) if text.strip()]
    return {"text": [texts[i] for i in kept], "title": [titles[i] for i in kept]}


def _join(parts: list[Any]) -> Any:
    import datasets

    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _title_not_in(row: dict[str, str], titles: Container[str]) -> bool:
    return row["title"] not in titles


def _heldout_by_hash(row: dict[str, str], heldout_fraction: float) -> bool:
    """A document's title decides (its text where it has none), so all parts of one document stay together."""
    return text_digest(row["title"] or row["text"]) % 1_000_000 < heldout_fraction * 1_000_000


def _is_train(row: dict[str, str], heldout_fraction: float) -> bool:
    return not _heldout_by_hash(row, heldout_fraction)


def _is_heldout(row: dict[str, str], heldout_fraction: float) -> bool:
    return _heldout_by_hash(row, heldout_fraction)
