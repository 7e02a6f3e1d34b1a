"""Turns rows of the training sources into documents, and documents into blocks, without a cache.

Streams and `dskd data pack` do with it, group by group, what data/blocks.py lets `datasets` do for
a whole corpus.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dskd_ds.data.block import DOCUMENT_COLUMNS, Document
from dskd_ds.data.blocks import preparation_lock, train_layout
from dskd_ds.data.chat import ChatFormat, chat_format, render_rows
from dskd_ds.data.documents import named, pick, train_filter
from dskd_ds.data.tally import Tally
from dskd_ds.spec.data import DataSpec, SourceSpec

Columns = dict[str, list[Any]]
"""Rows as lists of values by column."""


class RowReader:
    """The training documents and blocks of a spec's sources, at epoch 0."""

    def __init__(
        self, data: DataSpec, tokenizer: Any, max_tokens: int | None, *, is_stream: bool
    ) -> None:
        """max_tokens: the longest row that the models read, for packing = "none".

        is_stream: print what is left out when it first occurs, not in one line at the end.
        Raises InputError as `chat_format` and `heldout_documents` do.
        """
        any_chat = any(source.format == "chat" for source in data.train)
        self.chat = chat_format(data.chat_template, tokenizer) if any_chat else None
        self.source_tallies = [
            Tally(f"[data.train.{index}] {source.path}", live=is_stream)
            for index, source in enumerate(data.train)
        ]
        self.block_tally = Tally("[data] train", live=is_stream)
        self._readers = [
            self._reader(source, f"data.train.{index}", self.source_tallies[index])
            for index, source in enumerate(data.train)
        ]
        with preparation_lock():
            self._is_train = train_filter(data, tokenizer)
        self._layout, self._tokenizer = train_layout(data, tokenizer, max_tokens), tokenizer
        self.num_tokenised = 0
        """Number of documents that were tokenised."""

    def _reader(self, source: SourceSpec, key: str, tally: Tally) -> Callable[[Columns], Columns]:
        """Return the function that turns rows of a source into documents.

        key: section of the spec, for messages.
        """
        if source.format == "text":
            return partial(
                pick,
                text_field=source.text_field,
                title_field=source.title_field,
                source=named(key, source.path),
            )
        assert isinstance(self.chat, ChatFormat)
        return partial(
            render_rows,
            chat=self.chat,
            title_field=source.title_field,
            only_completions=source.supervise == "completions",
            tally=tally,
        )

    def documents(self, source: int, rows: Columns) -> Columns:
        """Return all documents in some rows of a source, also those that are held out.

        source: index of the source in [data] train. Malformed rows are counted in its tally.
        Raises InputError as `pick` and `render_rows` do.
        """
        return self._readers[source](rows)

    def training_documents(self, documents: Columns) -> Columns:
        """Return the documents that are trained on."""
        kept = [
            index
            for index, (title, text) in enumerate(
                zip(documents["title"], documents["text"], strict=True)
            )
            if self._is_train(_titled(title, text))
        ]
        return {name: [values[index] for index in kept] for name, values in documents.items()}

    def blocks(self, documents: Columns) -> Columns:
        """Return the blocks, or rows, of documents that are packed together."""
        assert set(documents) == set(DOCUMENT_COLUMNS)
        self.num_tokenised += len(documents["text"])
        settings = {"tokenizer": self._tokenizer, "tally": self.block_tally}
        return self._layout.function(documents, **settings, **self._layout.settings)


def _titled(title: str, text: str) -> Document:
    """Return a document that has only what decides whether it is held out."""
    return Document(
        text=text, title=title, chat=False, open_end=False, completions=[], continuation=[]
    )
