"""Chooses the prompts of a block that the student continues in an on-policy step."""

from __future__ import annotations

from dskd_ds.data.block import Block
from dskd_ds.data.packing import Segment
from dskd_ds.spec.training import TrainSpec

MIN_PROMPT_TOKENS = 4
"""Shorter prompts are not used: they do not determine what follows."""


def prompts_of(
    block: Block, train: TrainSpec, block_tokens: int, end_id: int, begin: list[int]
) -> list[Segment]:
    """Return the prompts that a block offers.

    With `on_policy_new_tokens` after each of them, they fit into one block together.

    A text gives a prompt of `on_policy_prompt_tokens` tokens, then leaves out as many tokens as
    will be written, and so on. A conversation in which only completions are targets gives what
    comes before its last completion; if that is too long, its end. begin: the BOS token that
    replaces the first token of each prompt, if the tokenizer sets one (data/packing.py).
    """
    prompts: list[Segment] = []
    room = block_tokens
    min_tokens = min(MIN_PROMPT_TOKENS, train.on_policy_prompt_tokens)
    segments = zip(
        block["segment_starts"],
        [*block["segment_starts"][1:], block_tokens],
        block["doc_digests"],
        block["doc_offsets"],
        strict=True,
    )
    for start, end, digest, offset in segments:
        for first, last in _prompt_spans(block, train, start, end):
            tokens = block["input_ids"][first:last]
            if tokens[-1] == end_id:  # nothing follows the end of a text
                tokens = tokens[:-1]
            tokens = [*begin, *tokens[len(begin) :]]
            needed = len(tokens) + train.on_policy_new_tokens
            if len(tokens) >= min_tokens and needed <= room:
                room -= needed
                prompts.append(Segment(tokens, [], digest, offset + first - start))
    return prompts


def _prompt_spans(block: Block, train: TrainSpec, start: int, end: int) -> list[tuple[int, int]]:
    """Return the ranges [first, last) of a segment's prompts. start, end: of the segment."""
    length = train.on_policy_prompt_tokens
    unsupervised_ends = [
        last for first, last in block["unsupervised"] if start <= first and last <= end
    ]
    if unsupervised_ends:
        completion_starts = [last for last in unsupervised_ends if last < end]
        return [(max(start, last - length), last) for last in completion_starts[-1:]]
    stride = length + train.on_policy_new_tokens
    return [(first, min(first + length, end)) for first in range(start, end, stride)]
