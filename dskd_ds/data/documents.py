"""Loads the sources of a spec as documents and splits them into training and held-out documents."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dskd_ds.data.block import Document
from dskd_ds.data.chat import ChatFormat, chat_format, render_rows
from dskd_ds.data.columns import checked_columns
from dskd_ds.data.lost import refuse_lost
from dskd_ds.data.packing import text_digest
from dskd_ds.data.tally import Tally
from dskd_ds.errors import InputError
from dskd_ds.spec.data import DataSpec, SourceSpec

READERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
"""The reader in `datasets` for each file ending."""
OTHER_ENDINGS = {".arrow", ".bz2", ".csv", ".gz", ".md", ".pdf", ".tsv", ".xz", ".zip", ".zst"}
"""Endings of files that are not read. A name that ends so is a file, not a hub dataset."""


def train_documents(data: DataSpec, tokenizer: Any) -> Any:
    """Return the training documents: a `datasets.Dataset`, or an `IterableDataset` if streamed.

    A document that shares its title with a held-out one is left out. Sources with a file per epoch
    are read at epoch 0; `DataSpec.of_epoch` chooses another one.
    """
    documents = _load(data, tokenizer, "train", data.stream)
    if data.heldout:
        titles = _heldout_titles(data, tokenizer)
        if not titles:
            return documents
        return documents.filter(_title_not_in, fn_kwargs={"titles": titles})
    return documents.filter(_is_train, fn_kwargs={"heldout_fraction": data.heldout_fraction})


def heldout_documents(data: DataSpec, tokenizer: Any) -> Any:
    """Return the documents that are never trained on, as a `datasets.Dataset`.

    Raises InputError for a streamed corpus without `heldout`: all of it would have to be read.
    """
    if data.heldout:
        return _load(data, tokenizer, "heldout", stream=False)
    if data.stream:
        raise InputError(
            "[data] stream = true, but heldout is not given: the documents that are kept out of"
            " training are spread over the whole corpus, which would have to be read first.\n"
            "  name other documents to evaluate on in [[data.heldout]]."
        )
    documents = _load(data, tokenizer, "train", stream=False)
    return documents.filter(_is_heldout, fn_kwargs={"heldout_fraction": data.heldout_fraction})


def _load(data: DataSpec, tokenizer: Any, part: Literal["train", "heldout"], stream: bool) -> Any:
    """Return all sources of a part as documents, one after the other."""
    import datasets

    numbered = enumerate(getattr(data, part))
    sources = {f"data.{part}.{i}": source.of_epoch(0) for i, source in numbered}
    any_chat = any(source.format == "chat" for source in sources.values())
    chat = chat_format(data.chat_template, tokenizer) if any_chat else None
    parts = []
    for key, source in sources.items():
        loaded = load_source(source, key, stream)
        documents = _as_documents(loaded, source, key, chat, stream)
        if part == "train" and source.format == "chat" and not stream:
            refuse_lost(
                data,
                key,
                len(loaded),
                len(loaded) - len(documents),
                reason="they are malformed",
                way_out="mend those rows",
            )
        parts.append(documents)
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def load_source(source: SourceSpec, key: str, stream: bool) -> Any:
    """Return one source with the columns it has. Raises InputError that names `key`."""
    import datasets

    files = matching_files(source.path, key)
    try:
        if files:
            reader = READERS[Path(files[0]).suffix]
            # By default each line of a .txt file would be a document.
            options = {"sample_by": "paragraph"} if reader == "text" else {}
            return datasets.load_dataset(
                reader, data_files=files, split="train", streaming=stream, **options
            )
        return datasets.load_dataset(
            source.path, source.subset, split=source.split, streaming=stream
        )
    except Exception as error:  # datasets raises a dozen unrelated classes
        raise InputError(
            f"{named(key, source.path)}, but it cannot be loaded: {short_reason(error)}\n"
            f"  name a hub dataset, or a file or glob ending in {', '.join(READERS)}."
        ) from None


def short_reason(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def named(key: str, path: str) -> str:
    """Return what a message calls a path: `[data.train.0] path = "..."`, or `--input ...`.

    key: section of the spec, or an option of the command line.
    """
    return f"{key} {path}" if key.startswith("--") else f'[{key}] path = "{path}"'


def matching_files(path: str, key: str = "data") -> list[str]:
    """Return the local files that a path or glob names, sorted; empty for a hub name.

    key: section or option that names the path. Raises InputError if a local path has no file, or
    files of an unknown kind.
    """
    files = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (absolute patterns too)
    suffix = Path(path).suffix
    if files and all(Path(file).suffix == suffix for file in files) and suffix in READERS:
        return files
    if files or is_local(path):
        problem = "its kind of file is unknown" if files else "there is no such file"
        raise InputError(
            f"{named(key, path)}, but {problem}.\n"
            f"  name a file or glob ending in {', '.join(READERS)}, or a hub dataset."
        )
    return []


def is_local(path: str) -> bool:
    """Return whether a path cannot be a hub dataset, which is `name` or `owner/name`.

    Such a path is not looked up in the network.
    """
    has_ending = Path(path).suffix in READERS or Path(path).suffix in OTHER_ENDINGS
    is_pattern = any(letter in path for letter in "*?[")
    return has_ending or is_pattern or path.startswith(("/", ".", "~")) or path.count("/") > 1


def _as_documents(
    loaded: Any, source: SourceSpec, key: str, chat: ChatFormat | None, stream: bool
) -> Any:
    """Map a loaded source to documents. Raises InputError as `checked_columns` does."""
    columns = checked_columns(loaded, source, key)
    options = {"batched": True, "remove_columns": columns, "features": document_features()}
    if source.format == "text":
        fields = {"text_field": source.text_field, "title_field": source.title_field}
        where = named(key, source.path)
        return loaded.map(pick, fn_kwargs={**fields, "source": where}, **options)
    assert chat is not None
    tally = Tally(f"[{key}] {source.path}", live=stream)
    settings = {
        "chat": chat,
        "title_field": source.title_field,
        "only_completions": source.supervise == "completions",
        "tally": tally,
    }
    if stream:
        return loaded.map(render_rows, fn_kwargs=settings, **options)
    # As in data/blocks.py, the key names what the documents depend on. Raise its version if
    # rendering changes.
    content = f"{loaded._fingerprint} {chat.fingerprint} {source.title_field} {source.supervise} v3"
    documents = loaded.map(
        render_rows,
        fn_kwargs=settings,
        desc="rendering conversations",
        **options,
        new_fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16],
    )
    tally.print_counts()
    return documents


def document_features() -> Any:
    """Return the types of a document's columns; `datasets` cannot guess the type of empty lists."""
    from datasets import Features, List, Value

    return Features(
        {
            "text": Value("string"),
            "title": Value("string"),
            "chat": Value("bool"),
            "open_end": Value("bool"),
            "completions": List(List(Value("int64"))),
            "continuation": List(Value("int32")),
        }
    )


def pick(
    rows: dict[str, list[Any]], text_field: str, title_field: str | None, source: str
) -> dict[str, list[Any]]:
    """Turn a batch of rows of a text source into columns of documents; empty texts are left out.

    source: where the rows come from, for messages. Raises InputError for a text that is no string.
    """
    texts = ["" if text is None else text for text in rows[text_field]]
    for text in texts:
        if not isinstance(text, str):
            raise InputError(
                f'{source}, but its column "{text_field}" holds a {type(text).__name__} in the row'
                f" with {str(text)[:60]!r}.\n"
                "  write one string into each row, or name another column in text_field."
            )
    titles = [str(title or "") for title in rows[title_field]] if title_field else [""] * len(texts)
    kept = [i for i, text in enumerate(texts) if text.strip()]
    all_false = [False] * len(kept)
    return {
        "text": [texts[i] for i in kept],
        "title": [titles[i] for i in kept],
        "chat": all_false,
        "open_end": all_false,
        "completions": [[] for _ in kept],
        "continuation": [[] for _ in kept],
    }


def train_filter(data: DataSpec, tokenizer: Any) -> Callable[[Document], bool]:
    """Return the function that tells whether a document is trained on, as `train_documents` does.

    It needs the title and the text of a document.
    """
    if not data.heldout:
        return partial(_is_train, heldout_fraction=data.heldout_fraction)
    return partial(_title_not_in, titles=_heldout_titles(data, tokenizer))


def _heldout_titles(data: DataSpec, tokenizer: Any) -> dict[str, None]:
    """Return the titles of the held-out documents.

    `datasets` hashes the arguments of a filter to find its cache; a dict of sorted titles has one
    order in every process and is searched as fast as a set.
    """
    titles = {title for title in heldout_documents(data, tokenizer)["title"] if title}
    return dict.fromkeys(sorted(titles))


def _title_not_in(row: Document, titles: Container[str]) -> bool:
    return row["title"] not in titles


def _heldout_by_hash(row: Document, heldout_fraction: float) -> bool:
    """Return whether a document is held out.

    The hash of its title decides, so that documents with one title stay together. A document
    without a title is decided by its text.
    """
    digest = text_digest(row["title"] or row["text"])
    return digest % 1_000_000 < heldout_fraction * 1_000_000


def _is_train(row: Document, heldout_fraction: float) -> bool:
    return not _heldout_by_hash(row, heldout_fraction)


def _is_heldout(row: Document, heldout_fraction: float) -> bool:
    return _heldout_by_hash(row, heldout_fraction)
