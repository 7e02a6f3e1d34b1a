"""Packing documents into blocks: BOS, supervised ranges and best fit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.data.packing import Segment, best_fit, block_row, outside, pack
from dskd_ds.data.tally import Tally
from tests.conftest import TinyWorld
from tests.unit.data.chats import (
    CHATML,
    END_ID,
    as_batch,
    messages_of,
    supervised_text,
)


def test_each_part_begins_with_bos_if_the_tokenizer_sets_it(tiny: TinyWorld) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tiny.folder / "teacher"))
    plain = {
        "text": ["big small old new " * 10],
        "title": [""],
        "chat": [False],
        "open_end": [False],
        "completions": [[]],
        "continuation": [[]],
    }
    before = pack(plain, tokenizer, 16, END_ID, Tally("x"))
    tokenizer.bos_token = "a"
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="a $A", special_tokens=[("a", bos)]
    )
    after = pack(plain, tokenizer, 16, END_ID, Tally("x"))
    assert all(ids[0] == bos for ids in after["input_ids"])
    words = [token for ids in after["input_ids"] for token in ids if token != bos]
    assert len(words) == 60
    assert words == [token for ids in before["input_ids"] for token in ids][: len(words)]
    assert [offsets[0] for offsets in after["doc_offsets"]] == [0, 15, 30, 45]
    two_texts = {name: values * 2 for name, values in plain.items()}
    two_texts |= {"text": ["old new old", "big"]}
    short = pack(two_texts, tokenizer, 10, END_ID, Tally("x"))
    assert [short["input_ids"][0][start] for start in short["segment_starts"][0]] == [bos, bos]
    for template in (CHATML, "{{ 'a' }}" + CHATML):  # the second template writes BOS itself
        rows = {"messages": [messages_of([("big " * 30, "large")])]}
        for size in (256, 24):  # whole, and cut
            batch = as_batch(tokenizer, template, rows, block_tokens=size)
            assert batch.input_ids[0, :2].tolist().count(bos) == 1
            assert batch.input_ids[0, 0] == bos
            assert supervised_text(tokenizer, batch) == "large<|im_end|>"


def test_whitespace_left_out_of_offsets_does_not_shift_completions() -> None:
    """GPT-2's tokenizer trims offsets: "\\n" before the answer is (5, 5), " yes" is (6, 9).

    The completion begins at 5.
    """
    assert outside([[5, 9]], [(0, 5), (5, 5), (6, 9), (9, 12)]) == [(0, 2), (3, 4)]


@given(lengths=st.lists(st.integers(1, 50), max_size=60))
def test_best_fit_keeps_every_segment_whole_and_never_overfills(lengths: list[int]) -> None:
    segments = [Segment([i] * n, [(0, 1)], i, 0) for i, n in enumerate(lengths)]
    blocks = best_fit(iter(segments), 50)
    digests = [segment.digest for block in blocks for segment in block]
    assert sorted(digests) == list(range(len(lengths)))
    rows = [block_row(block, 50, pad_id=99) for block in blocks]
    assert all(len(row["input_ids"]) == 50 for row in rows)
    for row, block in zip(rows, blocks, strict=True):
        for segment, start in zip(block, row["segment_starts"], strict=False):
            assert row["input_ids"][start : start + len(segment.tokens)] == segment.tokens
            assert [start, start + 1] in row["unsupervised"]
    # Best fit guarantees that no two blocks fit into one.
    filled = sorted(sum(len(segment.tokens) for segment in block) for block in blocks)
    assert len(filled) < 2 or filled[0] + filled[1] > 50
