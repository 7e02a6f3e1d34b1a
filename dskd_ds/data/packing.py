"""Packs documents into blocks: texts back to back and cut where a block ends, conversations whole.

A text that is cut at the end of a block continues in the next block, without the earlier tokens as
context. A conversation is never cut, so that no answer is read without its question: it goes into
the block where it leaves the least room, and the free rest of a block is padded. A conversation
that is longer than a block keeps its end: the last answers, and as much before them as fits.

If the tokenizer starts its output with a BOS token (Llama 3, Mistral, Gemma), every part of a
document starts with it too: the model was never trained without it.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dskd_ds.data.block import BLOCK_COLUMNS, Block, Document
from dskd_ds.data.tally import Tally


def text_digest(text: str) -> int:
    """Return 64 bits that identify a text on any machine, signed as Arrow and torch store them."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@dataclass(frozen=True)
class Segment:
    """A document, or a part of one, in a block."""

    tokens: list[int]
    unsupervised: list[tuple[int, int]]
    """Ranges [start, end) of `tokens` that are no targets, ascending, with targets between them."""
    digest: int
    """Digest of the document."""
    offset: int
    """Position of the first token within the document, not counting the BOS tokens of parts."""


def pack(
    rows: dict[str, list[Any]], tokenizer: Any, block_tokens: int, end_id: int, tally: Tally
) -> dict[str, list[Any]]:
    """Pack a batch of documents, given as columns, into blocks; texts first.

    The last block of texts is dropped if it is not full. Returns the columns of the blocks.
    """
    texts = [text for text, chat in zip(rows["text"], rows["chat"], strict=True) if not chat]
    chats = [_document(rows, i) for i, is_chat in enumerate(rows["chat"]) if is_chat]
    whole = whole_segments(chats, tokenizer, end_id)
    conversations = _fitting(whole, block_tokens, begin_ids(tokenizer), tally)
    blocks = [
        *_back_to_back(texts, tokenizer, block_tokens, end_id),
        *best_fit(conversations, block_tokens),
    ]
    return _columns(block_row(segments, block_tokens, end_id) for segments in blocks)


def one_per_row(
    rows: dict[str, list[Any]], tokenizer: Any, max_tokens: int | None, end_id: int, tally: Tally
) -> dict[str, list[Any]]:
    """Turn a batch of documents, given as columns, into one row each, as long as the document is.

    A document longer than `max_tokens`, or without a target, is left out and counted in `tally`.
    Returns the columns of the rows, in the order of the documents.
    """
    documents = [_document(rows, index) for index in range(len(rows["text"]))]
    kept: list[Block] = []
    for segment in whole_segments(documents, tokenizer, end_id):
        if max_tokens is not None and len(segment.tokens) > max_tokens:
            tally.add(f"left out: longer than the {max_tokens} tokens that the models read")
        elif _num_targets(segment) == 0:
            tally.add("left out: no token to supervise")
        else:
            kept.append(block_row([segment], len(segment.tokens), end_id))
    return _columns(kept)


def _columns(blocks: Iterable[Block]) -> dict[str, list[Any]]:
    """Return blocks as columns."""
    columns: dict[str, list[Any]] = {name: [] for name in BLOCK_COLUMNS}
    for block in blocks:
        for name, value in block.items():
            columns[name].append(value)
    return columns


def _document(rows: dict[str, list[Any]], index: int) -> Document:
    """Return one row of a batch of documents."""
    return Document(
        text=rows["text"][index],
        title=rows["title"][index],
        chat=rows["chat"][index],
        open_end=rows["open_end"][index],
        completions=rows["completions"][index],
        continuation=rows["continuation"][index],
    )


def block_row(segments: Sequence[Segment], block_tokens: int, pad_id: int) -> Block:
    """Return the block of these segments. The rest is padded with `pad_id`, never a target."""
    free = block_tokens - sum(len(segment.tokens) for segment in segments)
    assert free >= 0, "the segments are longer than the block"
    if free:
        # Padding is a separate segment; building senses recognises it by the digest 0.
        segments = [*segments, Segment([pad_id] * free, [(0, free)], digest=0, offset=0)]
    input_ids: list[int] = []
    starts: list[int] = []
    unsupervised: list[list[int]] = []
    for segment in segments:
        start = len(input_ids)
        starts.append(start)
        unsupervised += [[start + first, start + last] for first, last in segment.unsupervised]
        input_ids += segment.tokens
    return Block(
        input_ids=input_ids,
        segment_starts=starts,
        doc_digests=[segment.digest for segment in segments],
        doc_offsets=[segment.offset for segment in segments],
        unsupervised=unsupervised,
    )


def begin_ids(tokenizer: Any) -> list[int]:
    """Return the BOS token in a list if the tokenizer starts its output with it; else no token.

    An empty text is encoded to see it, because not every tokenizer with a BOS token sets it.
    """
    return [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id][:1]


def _back_to_back(
    texts: list[str], tokenizer: Any, block_tokens: int, end_id: int
) -> Iterator[list[Segment]]:
    """Yield the segments of each full block of texts."""
    if not texts:  # transformers' fast tokenizers fail on an empty list
        return
    begin = begin_ids(tokenizer)
    segments: list[Segment] = []
    room = block_tokens
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for text, text_tokens in zip(texts, encoded, strict=True):
        tokens = [*text_tokens, end_id]
        digest, offset = text_digest(text), 0
        while offset < len(tokens):
            part = tokens[offset : offset + room - len(begin)]
            segments.append(Segment([*begin, *part], [], digest, offset))
            offset += len(part)
            room -= len(begin) + len(part)
            if room <= len(begin):  # the rest has no room for a token of the text
                yield segments
                segments, room = [], block_tokens


def whole_segments(documents: list[Document], tokenizer: Any, end_id: int) -> Iterator[Segment]:
    """Yield each document as one segment, with its first and last special tokens."""
    if not documents:  # transformers' fast tokenizers fail on an empty list
        return
    texts, begin = [document["text"] for document in documents], begin_ids(tokenizer)
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    for document, tokens, offsets in zip(
        documents, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        # Many templates write the BOS token and the end of the last turn themselves.
        if tokens[:1] != begin:
            tokens, offsets = [*begin, *tokens], [*[(0, 0)] * len(begin), *offsets]
        text_end = len(document["text"])
        if document["continuation"]:
            tokens = [*tokens, *document["continuation"]]
            offsets = [*offsets, *[(text_end, text_end + 1)] * len(document["continuation"])]
        if not document["open_end"] and tokens[-1] != end_id:
            tokens, offsets = [*tokens, end_id], [*offsets, (text_end, text_end)]
        spans = document["completions"]
        unsupervised = outside(spans, offsets) if spans else []
        yield Segment(tokens, unsupervised, text_digest(document["text"]), 0)


def _fitting(
    segments: Iterable[Segment], block_tokens: int, begin: list[int], tally: Tally
) -> Iterator[Segment]:
    """Yield each conversation as it fits a block, unless nothing of it is a target.

    A conversation longer than a block loses its beginning. Both cases are counted in `tally`.
    """
    for segment in segments:
        cut = len(segment.tokens) - block_tokens
        if cut > 0:
            segment = _end_of(segment, cut, begin)
            tally.add(f"longer than a block of {block_tokens} tokens: their beginnings are cut off")
        if _num_targets(segment) > 0:
            yield segment
        else:
            tally.add("left out: no token to supervise in what fits a block")


def _end_of(segment: Segment, cut: int, begin: list[int]) -> Segment:
    """Return a segment without its first `cut` tokens.

    BOS takes the place of the first kept token, which is never a target.
    """
    kept = segment.tokens[cut:]
    return Segment(
        tokens=[*begin, *kept[len(begin) :]],
        unsupervised=[
            (max(0, start - cut), end - cut) for start, end in segment.unsupervised if end > cut
        ],
        digest=segment.digest,
        offset=cut,
    )


def _num_targets(segment: Segment) -> int:
    """Return the number of targets in a segment. Its first token is never one."""
    num_unsupervised = sum(end - max(1, start) for start, end in segment.unsupervised)
    return len(segment.tokens) - 1 - num_unsupervised


def outside(completions: list[list[int]], offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges [start, end) of tokens that belong to no completion.

    completions: ranges of characters, ascending. offsets: the range of characters of each token. A
    token belongs to a completion if it begins within it. A token that ends where the completion
    begins does not, since a tokenizer may leave a token's white space out of its offsets.
    """
    ranges: list[tuple[int, int]] = []
    for index, (first, last) in enumerate(offsets):
        if any(start <= first < end and last > start for start, end in completions):
            continue
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return ranges


def best_fit(segments: Iterable[Segment], block_tokens: int) -> list[list[Segment]]:
    """Distribute segments over blocks of at most `block_tokens` tokens.

    The longest segment comes first; each goes into the block where it leaves the least room.
    """
    blocks: list[list[Segment]] = []
    rooms: list[tuple[int, int]] = []  # (room, index of the block), ascending
    for segment in sorted(segments, key=lambda s: -len(s.tokens)):
        # The first block with enough room is the one where least is left.
        best = bisect.bisect_left(rooms, (len(segment.tokens), 0))
        if best == len(rooms):
            room, block = block_tokens, len(blocks)
            blocks.append([])
        else:
            room, block = rooms.pop(best)
        blocks[block].append(segment)
        bisect.insort(rooms, (room - len(segment.tokens), block))
    return blocks
