"""The blocks of a spec: its documents, each with an end-of-text token, packed by data/packing.py.

Attention never crosses from one document to another: position ids restart at 0 with each document,
and transformers builds the mask from them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

from filelock import FileLock

from dskd_ds.data.block import DOCUMENT_COLUMNS
from dskd_ds.data.documents import heldout_documents, train_documents
from dskd_ds.data.packing import pack
from dskd_ds.data.tally import Tally
from dskd_ds.errors import InputError
from dskd_ds.models.resolve import tokenizer_fingerprint
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
    """Return the training blocks: a `datasets.Dataset`, or an `IterableDataset` if streamed.

    Raises InputError if there is not one block.
    """
    return _blocks(data, tokenizer, train_documents, part="train", stream=data.stream)


def heldout_blocks(data: DataSpec, tokenizer: Any) -> Any:
    """Return the held-out blocks as a `datasets.Dataset`.

    Raises InputError if there is not one block.
    """
    return _blocks(data, tokenizer, heldout_documents, part="heldout", stream=False)


def _blocks(
    data: DataSpec,
    tokenizer: Any,
    documents_of: Callable[[DataSpec, Any], Any],
    part: str,
    stream: bool,
) -> Any:
    """Pack the documents of a part. documents_of: train_documents or heldout_documents."""
    end_id = end_of_text_id(tokenizer)
    tally = Tally(f"[data] {part}", live=stream)
    settings = {
        "tokenizer": tokenizer,
        "block_tokens": data.block_tokens,
        "end_id": end_id,
        "tally": tally,
    }
    lock = dskd_home() / "data.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # the first process of a node packs, the others find the result
        documents = documents_of(data, tokenizer)
        options: dict[str, Any] = {
            "batched": True,
            "batch_size": PACK_DOCUMENTS,
            "features": _features(),
            "remove_columns": list(DOCUMENT_COLUMNS),
        }
        if stream:
            return documents.map(pack, fn_kwargs=settings, **options)
        # By default `datasets` hashes the arguments, with the tally's counts and the whole
        # tokenizer. This key names what blocks depend on; raise its version if packing changes.
        vocabulary = tokenizer_fingerprint(tokenizer)
        key = f"{documents._fingerprint} {vocabulary} {data.block_tokens} {end_id} v3"
        blocks = documents.map(
            pack,
            fn_kwargs=settings,
            desc=f"packing {part} text",
            **options,
            new_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:16],
        )
    tally.print_counts()
    if len(blocks) == 0:
        raise InputError(
            f"[data] {part}: its {len(documents)} documents do not fill one block of"
            f" {data.block_tokens} tokens.\n"
            "  give more text, or lower [data] block_tokens."
        )
    return blocks


def _features() -> Any:
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
