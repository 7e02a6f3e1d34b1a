"""[data]: texts and conversations, and how they become blocks of tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import Fraction, Part


class SourceSpec(Part):
    """One source of text or of conversations, read with `datasets`."""

    path: str
    """A file or glob (`.txt`, `.jsonl`, `.json`, `.parquet`), or a hub dataset's name."""
    subset: str | None = None
    """The hub dataset's configuration, where it has several."""
    split: str = "train"
    """The hub dataset's split."""
    format: Literal["text", "chat"] = "text"
    """`text`: a document a row. `chat`: a conversation a row, in `messages` ([{role, content}]) or `prompt` and `completion`."""
    text_field: str = "text"
    """The column that holds the text, for `text`."""
    title_field: str | None = None
    """The column that holds the document's title; held-out titles are never trained on."""
    supervise: Literal["all", "completions"] = "all"
    """Whose tokens are targets: everybody's (paper), or for `chat` only what the assistant says (of `completion`, where there is one)."""


class DataSpec(Part):
    """Texts and conversations, and how they become blocks of tokens."""

    train: tuple[SourceSpec, ...] = Field(min_length=1)
    """What is trained on."""
    heldout: tuple[SourceSpec, ...] = ()
    """What is only evaluated on. Training documents with a title found here are dropped."""
    heldout_fraction: Fraction = 0.02
    """Without `heldout`: the share of training documents (by a hash of title or text) kept out for evaluation."""
    block_tokens: Annotated[int, Field(ge=16)] = 1024
    """Tokens in a block. Documents are packed back to back, conversations whole; attention never crosses from one to another."""
    chat_template: str = "tokenizer"
    """How conversations become text: the teacher's tokenizer's own template, `plain` (User: ... Assistant: ...), or a `.jinja` file."""
    stream: bool = False
    """Read in order while training, never hold or shuffle the whole: for corpora larger than the disk."""
