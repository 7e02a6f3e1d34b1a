"""The blocks and rows of a spec: its documents, each with an end-of-text token, as data/packing.py
arranges them.

Attention never crosses from one document to another: position ids restart at 0 with each document,
and transformers builds the mask from them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from filelock import FileLock

from dskd_ds.data.block import DOCUMENT_COLUMNS
from dskd_ds.data.documents import heldout_documents, train_documents
from dskd_ds.data.lost import check_lost
from dskd_ds.data.packing import begin_ids, one_per_row, pack
from dskd_ds.data.tally import Tally
from dskd_ds.errors import InputError
from dskd_ds.models.resolve import tokenizer_digest
from dskd_ds.spec import dskd_home
from dskd_ds.spec.data import DataSpec

PACK_DOCUMENTS = 1000
"""Documents that are packed together. The rest of their texts, less than a block, is dropped."""


def end_of_text_id(tokenizer: Any) -> int:
    """Return the token that ends a document: `<|endoftext|>` if it exists, else the EOS token.

    Raises InputError if the tokenizer has neither.
    """
    vocab = tokenizer.get_vocab()
    if "<|endoftext|>" in vocab:
        return int(vocab["<|endoftext|>"])
    if tokenizer.eos_token_id is None:
        raise InputError(
            "[teacher] model: its tokenizer has no end-of-text token to put between documents.\n"
            "  use a model whose tokenizer defines eos_token."
        )
    return int(tokenizer.eos_token_id)


def train_blocks(data: DataSpec, tokenizer: Any) -> Any:
    """Return the training blocks as a `datasets.Dataset`. data: not streamed.

    Raises InputError if there is not one block.
    """
    packed = _in_blocks(data, end_of_text_id(tokenizer))
    return _arranged(data, tokenizer, train_documents, part="train", layout=packed)


def train_rows(data: DataSpec, tokenizer: Any, max_tokens: int | None) -> Any:
    """Return what a run trains on: blocks, or with packing = "none" one document per row.

    max_tokens: the longest row that the models read; a longer document is left out. Otherwise as
    `train_blocks`.
    """
    layout = train_layout(data, tokenizer, max_tokens)
    return _arranged(data, tokenizer, train_documents, part="train", layout=layout)


def heldout_blocks(data: DataSpec, tokenizer: Any) -> Any:
    """Return the held-out blocks as a `datasets.Dataset`.

    Raises InputError if there is not one block.
    """
    packed = _in_blocks(data, end_of_text_id(tokenizer))
    return _arranged(data, tokenizer, heldout_documents, part="heldout", layout=packed)


def evenly_spread(num_blocks: int, num_tokens: int, block_tokens: int) -> range:
    """Return the indices of evenly spread blocks with about `num_tokens` tokens, at least one."""
    num_wanted = max(1, num_tokens // block_tokens)
    num_chosen = min(num_blocks, num_wanted)
    stride = num_blocks // num_chosen
    return range(0, num_chosen * stride, stride)


@dataclass(frozen=True)
class Layout:
    """How documents become rows of tokens."""

    function: Callable[..., dict[str, list[Any]]]
    """A function of data/packing.py: from columns of documents to columns of blocks."""
    settings: dict[str, Any]
    """Its arguments beside the tokenizer and the tally."""
    version: str
    """Part of the name of the cached result. Change it if the function's results change."""

    @property
    def key(self) -> str:
        """Everything in the name of the cached result that is not the text or the tokenizer."""
        return " ".join([*map(str, self.settings.values()), self.version])


def train_layout(data: DataSpec, tokenizer: Any, max_tokens: int | None) -> Layout:
    """Return how [data] packing turns training documents into rows.

    max_tokens: see `train_rows`.
    """
    end_id = end_of_text_id(tokenizer)
    if data.packing == "blocks":
        return _in_blocks(data, end_id)
    settings = {"max_tokens": max_tokens, "end_id": end_id}
    return Layout(function=one_per_row, settings=settings, version="rows v1")


def _in_blocks(data: DataSpec, end_id: int) -> Layout:
    settings = {"block_tokens": data.block_tokens, "end_id": end_id}
    return Layout(function=pack, settings=settings, version="v3")


def _arranged(
    data: DataSpec,
    tokenizer: Any,
    documents_of: Callable[[DataSpec, Any], Any],
    *,
    part: Literal["train", "heldout"],
    layout: Layout,
) -> Any:
    """Arrange the documents of a part. documents_of: train_documents or heldout_documents."""
    tally = Tally(f"[data] {part}")
    settings = {"tokenizer": tokenizer, "tally": tally, **layout.settings}
    with preparation_lock():  # the first process of a node packs, the others find the result
        documents = documents_of(data, tokenizer)
        options: dict[str, Any] = {
            "batched": True,
            "batch_size": PACK_DOCUMENTS,
            "features": block_features(),
            "remove_columns": list(DOCUMENT_COLUMNS),
        }
        # By default `datasets` hashes the arguments, with the tally's counts and the whole
        # tokenizer. This key names what the result depends on.
        tokens = f"{tokenizer_digest(tokenizer)} {begin_ids(tokenizer)}"
        key = f"{documents._fingerprint} {tokens} {layout.key}"
        blocks = documents.map(
            layout.function,
            fn_kwargs=settings,
            desc=f"packing {part} text",
            **options,
            new_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:16],
        )
    tally.print_counts()
    if len(blocks) == 0:
        raise InputError(
            nothing_left(data, part, len(documents), in_rows=layout.function is not pack)
        )
    if part == "train":
        check_lost(data, documents, blocks, in_blocks=layout.function is pack)
    return blocks


def preparation_lock() -> FileLock:
    """Return the lock under which the processes of a node prepare texts in `datasets`' cache."""
    path = dskd_home() / "data.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def nothing_left(data: DataSpec, part: str, num_documents: int, *, in_rows: bool) -> str:
    """Return the message for documents that give not one block, or not one row."""
    if in_rows:
        return (
            f"[data] {part}: none of its {num_documents} documents gives a row: they are longer"
            " than the models read, or have no token to supervise.\n"
            '  give other text, or set [data] packing = "blocks".'
        )
    if part == "heldout" and not data.heldout and data.heldout_fraction == 0:
        return (
            "[data] heldout_fraction = 0, and heldout is not given: no text is kept for"
            " evaluation.\n"
            "  name texts to evaluate on in [[data.heldout]]."
        )
    return (
        f"[data] {part}: its {num_documents} documents do not fill one block of"
        f" {data.block_tokens} tokens.\n"
        "  give more text, or lower [data] block_tokens."
    )


def block_features() -> Any:
    """Return the types of a block's columns; `datasets` cannot guess the type of empty lists."""
    from datasets import Features, List, Value

    return Features(
        {
            "input_ids": List(Value("int32")),
            "segment_starts": List(Value("int32")),
            "doc_digests": List(Value("int64")),
            "doc_offsets": List(Value("int32")),
            "unsupervised": List(List(Value("int32"))),
        }
    )


def position_ids(segment_starts: list[int], block_tokens: int) -> list[int]:
    """Return positions that restart at 0 with each segment.

    Example: starts [0, 3] of 5 tokens give [0, 1, 2, 0, 1].
    """
    ends = [*segment_starts[1:], block_tokens]
    lengths = (end - start for start, end in zip(segment_starts, ends, strict=True))
    return list(itertools.chain.from_iterable(map(range, lengths)))
