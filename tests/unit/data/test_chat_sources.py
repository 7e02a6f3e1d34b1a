"""Sources of conversations in a spec: mixed with text, streamed, and wrong settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd_ds.data.batches import IGNORE, Sample, make_batch
from dskd_ds.errors import InputError
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.of_spec import (
    heldout_blocks_of,
    heldout_documents_of,
    train_blocks_of,
    train_documents_of,
)
from tests.unit.data.chats import (
    CHATML,
    messages_of,
)


@pytest.fixture
def chat_file(tmp_path: Path) -> str:
    rows = [{"messages": messages_of([(f"what is {i}?", f"it is number {i}")])} for i in range(200)]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f'{{path="{path}", format="chat", supervise="completions"}}'


def test_a_spec_mixes_text_and_conversations(tiny: TinyWorld, chat_file: str) -> None:
    text = f'{{path="{tiny.folder / "train.jsonl"}", title_field="title"}}'
    keys = [
        f"data.train=[{text}, {chat_file}]",
        "data.chat_template=plain",
        "data.heldout=[]",
        "data.heldout_fraction=0.2",
    ]
    spec = load_spec(tiny.spec_file, [*keys, "data.block_tokens=64"])
    trained, held = train_documents_of(spec), heldout_documents_of(spec)
    assert len(trained) + len(held) == 320
    assert not set(trained["title"]) & set(held["title"])
    assert 20 < sum(held["chat"]) < 60
    tokenizer = load_tokenizer(spec.teacher.model)
    for blocks, documents in ((train_blocks_of(spec), trained), (heldout_blocks_of(spec), held)):
        answers = [
            document["text"].split("Assistant:")[1].strip("\n")
            for document in documents
            if document["chat"]
        ]
        batch = make_batch(list(blocks), [Sample(0, i) for i in range(len(blocks))])
        chats = batch.targets[[bool(block["unsupervised"]) for block in blocks]]
        supervised = tokenizer.decode(chats[chats != IGNORE]).split("<|endoftext|>")[:-1]
        expected = [answer.removesuffix("<|endoftext|>") for answer in answers]
        assert sorted(supervised) == sorted(expected)


def test_wrong_chat_settings_are_reported(tiny: TinyWorld, chat_file: str, tmp_path: Path) -> None:
    def message(*overrides: str) -> str:
        with pytest.raises(InputError) as error:
            train_blocks_of(load_spec(tiny.spec_file, [f"data.train=[{chat_file}]", *overrides]))
        return str(error.value)

    assert 'set chat_template = "plain"' in message()  # the tiny tokenizer is a base model's
    assert "no such file" in message("data.chat_template=nowhere.jinja")
    text = f'{{path="{tiny.folder / "train.jsonl"}", format="chat"}}'
    assert "has the columns" in message(f"data.train=[{text}]", "data.chat_template=plain")
    assert "has no completions" in message(
        f'data.train=[{{path="{tiny.folder / "train.jsonl"}", supervise="completions"}}]'
    )
    template = tmp_path / "chatml.jinja"
    template.write_text(CHATML)
    settings = [
        f"data.train=[{chat_file}]",
        f"data.chat_template={template}",
        "data.block_tokens=128",
    ]
    assert len(train_blocks_of(load_spec(tiny.spec_file, settings))) > 10
