"""The rows of the data pipeline: a document of text, and a block of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict


class Document(TypedDict):
    """A text, or a conversation rendered as text."""

    text: str
    title: str
    """Empty if there is none."""
    chat: bool
    """Whether it is a conversation."""
    open_end: bool
    """Whether the text was cut, so that no end-of-text token follows its last word."""
    completions: list[list[int]]
    """Ranges [start, end) of characters that are targets, ascending; empty: the whole text. The
    continuation counts as one character behind the text."""
    continuation: list[int]
    """Tokens that follow those of the text, as the teacher wrote them; mostly empty."""


class Block(TypedDict):
    """A row of tokens made of segments: documents, or parts of documents.

    Packed blocks have `block_tokens` tokens; an unpacked row is as long as its one document.
    """

    input_ids: list[int]
    """[block_tokens], or the tokens of one document."""
    segment_starts: list[int]
    """Position of each segment's first token."""
    doc_digests: list[int]
    """Digest of each segment's document; 0 for padding."""
    doc_offsets: list[int]
    """Position of each segment's first token within its document."""
    unsupervised: Sequence[Sequence[int]]
    """Ranges [start, end) of positions that are no targets, ascending."""


DOCUMENT_COLUMNS = tuple(Document.__annotations__)
BLOCK_COLUMNS = tuple(Block.__annotations__)


class Blocks(Protocol):
    """Blocks that are read by their number, e.g. a mapped `datasets.Dataset`."""

    def __len__(self) -> int:
        """Return the number of blocks."""
        ...

    def __getitem__(self, index: int, /) -> Block:
        """Return the block with this number."""
        ...
