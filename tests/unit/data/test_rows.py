"""Rows that are not packed: whole, padded, counted; and what a run does about lost ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from dskd_ds.data.batches import (
    IGNORE,
    MappedBlocks,
    Sample,
    make_batch,
    places,
    read_batch,
)
from dskd_ds.data.blocks import heldout_blocks, train_blocks, train_rows
from dskd_ds.data.packing import one_per_row
from dskd_ds.data.source import num_steps, open_source
from dskd_ds.data.streamed import StreamedBlocks
from dskd_ds.data.tally import Tally
from dskd_ds.errors import InputError
from dskd_ds.models.frozen import load_frozen
from dskd_ds.models.named import NamedModel
from dskd_ds.spec import RunSpec, load_spec
from tests.conftest import WORDS, TinyWorld
from tests.unit.data.chats import CHATML, END_ID, as_batch, messages_of, supervised_text


def question(draw: random.Random, passage_words: int) -> str:
    """A question about a passage with four options, as in MMLU's auxiliary training set."""
    passage = " ".join(draw.choices(WORDS, k=passage_words))
    options = [" ".join(draw.choices(WORDS, k=8)) for _ in "ABCD"]
    lines = [f"{label}. {text}" for label, text in zip("ABCD", options, strict=True)]
    return "\n".join([passage, *lines])


def five_shot_chats(folder: Path, count: int) -> Path:
    """Write chats of five shots and a question each.

    Most of MMLU's auxiliary questions have a passage of 200 to 450 words; some have none.
    """
    draw = random.Random(0)
    lines = []
    for _ in range(count):
        lengths = [draw.choice([20, 200, 300, 350, 450]) for _ in range(6)]
        turns = [(question(draw, length), draw.choice("ABCD")) for length in lengths]
        lines.append(json.dumps({"messages": messages_of(turns), "open_end": True}))
    path = folder / "mmlu.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def spec_of(tiny: TinyWorld, path: Path, *keys: str) -> RunSpec:
    source = f'{{path="{path}", format="chat"}}'
    plain = ("data.chat_template=plain", "data.heldout=[]", "data.heldout_fraction=0")
    return load_spec(
        tiny.spec_file, [f"data.train=[{source}]", *plain, "student.layers=first", *keys]
    )


def test_none_of_mmlus_auxiliary_questions_is_dropped_or_cut(
    tiny: TinyWorld, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = five_shot_chats(tmp_path, 60)
    keys = ("data.packing=none", "data.max_lost_fraction=0")
    rows = train_rows(spec_of(tiny, path, *keys).data, tokenizer, max_tokens=8192)
    assert "left out" not in capsys.readouterr().err
    assert len(rows) == 60
    assert max(map(len, rows["input_ids"])) > 2000
    texts = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    for row, messages in zip(rows, texts, strict=True):
        text = tokenizer.decode(row["input_ids"])
        assert all(message["content"] in text for message in messages)
    # In blocks of today's length most of them are cut.
    packed = spec_of(tiny, path, "data.block_tokens=1024", "data.max_lost_fraction=0.01")
    with pytest.raises(InputError, match=r"60 conversations are lost: .* than a block of 1024"):
        train_blocks(packed.data, tokenizer)
    # A dictionary is built from blocks also without packing; they hold several conversations each.
    long = spec_of(tiny, path, *keys, "data.block_tokens=8192")
    assert len(train_blocks(long.data, tokenizer)) < 60


def test_a_lost_share_above_the_limit_stops_every_start(
    tiny: TinyWorld, tokenizer: Any, tmp_path: Path
) -> None:
    """The second start finds the rows in the cache, where nothing is counted again."""
    path = five_shot_chats(tmp_path, 60)
    lengths = [
        len(row["input_ids"])
        for row in train_rows(spec_of(tiny, path, "data.packing=none").data, tokenizer, None)
    ]
    limit = sorted(lengths)[-3]  # two are longer
    allowed = spec_of(tiny, path, "data.packing=none", "data.max_lost_fraction=0.04")
    assert len(train_rows(allowed.data, tokenizer, limit)) == 58
    refused = spec_of(tiny, path, "data.packing=none", "data.max_lost_fraction=0.01")
    for _ in range(2):
        with pytest.raises(InputError) as error:
            train_rows(refused.data, tokenizer, limit)
        assert "[data.train]: 2 of 60 conversations are lost" in str(error.value)
        assert "max_lost_fraction = 0.01 allows 0" in str(error.value)
        assert "longer than the models read" in str(error.value)


def test_malformed_conversations_are_lost_too(
    tiny: TinyWorld, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"messages": messages_of([("what?", f"this {i}")])} for i in range(9)]
    rows.append({"messages": [{"role": "user", "content": "no answer"}]})
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = spec_of(tiny, path, "data.packing=none", "data.max_lost_fraction=0.1")
    assert len(train_rows(kept.data, tokenizer, None)) == 9
    refused = spec_of(tiny, path, "data.packing=none", "data.max_lost_fraction=0.05")
    for _ in range(2):
        with pytest.raises(InputError, match=r"\[data.train.0\]: 1 of 10 .* malformed"):
            train_rows(refused.data, tokenizer, None)


def columns_of(texts: list[str], chat: bool = False) -> dict[str, list[Any]]:
    count = len(texts)
    return {
        "text": texts,
        "title": [""] * count,
        "chat": [chat] * count,
        "open_end": [False] * count,
        "completions": [[] for _ in texts],
        "continuation": [[] for _ in texts],
    }


def test_a_row_is_one_document_with_its_end(tokenizer: Any) -> None:
    tally = Tally("x")
    texts = ["big small old", "new " * 30, "big", "old " * 200]
    rows = one_per_row(columns_of(texts), tokenizer, 130, END_ID, tally)
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert rows["input_ids"] == [[*ids, END_ID] for ids in expected[:3]]
    assert rows["segment_starts"] == [[0]] * 3
    assert rows["doc_offsets"] == [[0]] * 3
    assert dict(tally.counts) == {
        "left out: longer than the 130 tokens that the models read": 1,
    }


def test_a_conversation_learns_the_same_in_a_row_and_in_a_block(tokenizer: Any) -> None:
    turns = [[("big?", "small")], [("old " * 20, "new"), ("is it?", "it is")]]
    rows = {"messages": [messages_of(some) for some in turns]}
    block = as_batch(tokenizer, CHATML, rows, block_tokens=256)
    row = as_batch(tokenizer, CHATML, rows, block_tokens=None)
    assert row.input_ids.shape[0] == 2
    assert row.input_ids.shape[1] < 256
    answers = "small<|im_end|>", "new<|im_end|>it is<|im_end|>"
    assert supervised_text(tokenizer, row) == "".join(answers)
    assert sorted(row.targets[row.targets != IGNORE]) == sorted(
        block.targets[block.targets != IGNORE]
    )


def padded_batch() -> Any:
    draw = random.Random(1)
    rows: list[Any] = [
        {
            "input_ids": [draw.randrange(1, 300) for _ in range(length)],
            "segment_starts": [0],
            "unsupervised": [],
        }
        for length in (5, 31, 30, 2)
    ]
    return rows, make_batch(rows, [Sample(0, i) for i in range(4)])


def test_padding_is_no_target_and_a_document_of_its_own() -> None:
    rows, batch = padded_batch()
    assert batch.input_ids.shape == (4, 31)
    assert batch.num_padding == 26 + 0 + 1 + 29
    for index, row in enumerate(rows):
        ids, length = row["input_ids"], len(row["input_ids"])
        assert batch.input_ids[index, :length].tolist() == ids
        assert batch.targets[index].tolist() == [*ids[1:], *[IGNORE] * (32 - length)]
        positions = [*range(length), *range(31 - length)]
        assert batch.position_ids[index].tolist() == positions


def test_padding_does_not_change_the_states_of_a_text(tiny: TinyWorld) -> None:
    model = load_frozen(
        NamedModel(str(tiny.folder / "teacher"), dtype="float32"), torch.device("cpu")
    )
    rows, batch = padded_batch()
    together = model.hidden_states(batch.input_ids, batch.position_ids)
    for index, row in enumerate(rows):
        alone = make_batch([row], [Sample(0, 0)])
        expected = model.hidden_states(alone.input_ids, alone.position_ids)[0]
        found = together[index, : len(expected)]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_count_as_blocks(tiny: TinyWorld, tokenizer: Any, tmp_path: Path) -> None:
    """Every row comes once per epoch, for any number of ranks; three rows are a step."""
    path = five_shot_chats(tmp_path, 12)
    ranks = ("topology.num_students=3", "train.global_batch_blocks=3")
    spec = spec_of(tiny, path, "data.packing=none", *ranks)
    epochs = spec.train.model_copy(update={"num_steps": None, "num_epochs": 2.0})
    spec = spec.model_copy(update={"train": epochs})
    source = open_source(spec.data, tokenizer, seed=1, step_blocks=3, max_tokens=8192)
    assert isinstance(source, MappedBlocks)
    assert num_steps(spec, source) == 8
    seen = [
        read_batch(source, places(spec, step, 0, rank)).samples[0]
        for step in range(8)
        for rank in range(3)
    ]
    assert sorted(seen, key=lambda s: (s.epoch, s.block)) == [
        Sample(epoch, block) for epoch in range(2) for block in range(12)
    ]


def test_a_stream_has_rows_too(tiny: TinyWorld, tokenizer: Any, tmp_path: Path) -> None:
    path = five_shot_chats(tmp_path, 12)
    mapped = spec_of(tiny, path, "data.packing=none")
    groups = "data.stream_group_documents=1"
    streamed = spec_of(tiny, path, "data.packing=none", "data.stream=true", groups)
    rows = train_rows(mapped.data, tokenizer, None)
    source = open_source(streamed.data, tokenizer, seed=1, step_blocks=3)
    assert isinstance(source, StreamedBlocks)
    assert [source.get(place)[1]["input_ids"] for place in range(12)] == rows["input_ids"]


def test_nothing_is_held_out_if_the_spec_says_so(tiny: TinyWorld, tokenizer: Any) -> None:
    keys = ["data.heldout=[]", "data.heldout_fraction=0", "data.packing=none"]
    spec = load_spec(tiny.spec_file, keys)
    assert len(train_rows(spec.data, tokenizer, None)) == 120
    with pytest.raises(InputError, match=r"heldout_fraction = 0.*no text is kept for\s+evaluation"):
        heldout_blocks(spec.data, tokenizer)


def test_rows_that_are_all_too_long_are_an_error(tiny: TinyWorld, tokenizer: Any) -> None:
    spec = load_spec(tiny.spec_file, ["data.packing=none"])
    with pytest.raises(InputError, match=r"none of its .* documents gives a row"):
        train_rows(spec.data, tokenizer, 2)
