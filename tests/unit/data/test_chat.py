"""Conversations: what is rendered, what is supervised, how blocks are filled."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dskd_ds.data.batches import IGNORE, Batch, Sample, make_batch
from dskd_ds.data.blocks import end_of_text_id
from dskd_ds.data.chat import PLAIN_TEMPLATE, ChatFormat, render_rows
from dskd_ds.data.packing import Segment, best_fit, block_row, outside, pack
from dskd_ds.data.tally import Tally
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

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '</s>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
ENDS = {CHATML: "<|im_end|>", MARKED: "</s>", PLAIN_TEMPLATE: "<|endoftext|>"}
"""Template -> how a turn ends."""

END_ID = 0
"""The tiny tokenizer's end of text."""

contents = (
    st.text(st.sampled_from("ab \n.,é漢🙂"), min_size=1, max_size=12).map(str.strip).filter(bool)
)
conversations = st.lists(st.tuples(contents, contents), min_size=1, max_size=3)
"""(question, answer) pairs."""


def messages_of(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def as_batch(
    tokenizer: Any,
    template: str,
    rows: dict[str, list[Any]],
    only_completions: bool = True,
    block_tokens: int = 1024,
    tally: Tally | None = None,
) -> Batch:
    tally = tally or Tally("test")
    documents = render_rows(rows, ChatFormat(tokenizer, template), None, only_completions, tally)
    blocks = pack(documents, tokenizer, block_tokens, end_of_text_id(tokenizer), tally)
    number = len(blocks["input_ids"])
    return make_batch(
        [{name: values[i] for name, values in blocks.items()} for i in range(number)],
        [Sample(0, i) for i in range(number)],
    )


def supervised_text(tokenizer: Any, batch: Batch) -> str:
    return str(tokenizer.decode(batch.targets[batch.targets != IGNORE]))


@pytest.fixture(scope="module")
def tokenizer(tiny: TinyWorld) -> Any:
    return load_tokenizer(str(tiny.folder / "teacher"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(turns=conversations, template=st.sampled_from(list(ENDS)))
def test_targets_are_exactly_the_completions(
    tokenizer: Any, turns: list[tuple[str, str]], template: str
) -> None:
    batch = as_batch(tokenizer, template, {"messages": [messages_of(turns)]})
    lead = " " if template == PLAIN_TEMPLATE else ""
    assert supervised_text(tokenizer, batch) == "".join(
        lead + answer + ENDS[template] for _, answer in turns
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(turns=conversations, template=st.sampled_from(list(ENDS)))
def test_with_all_supervised_everything_but_the_first_token_and_padding_is_a_target(
    tokenizer: Any, turns: list[tuple[str, str]], template: str
) -> None:
    batch = as_batch(
        tokenizer, template, {"messages": [messages_of(turns)]}, only_completions=False
    )
    text = ChatFormat(tokenizer, template).render(messages_of(turns))
    ids = tokenizer(text)["input_ids"]
    end = [] if ids[-1] == 0 else [0]
    assert batch.input_ids[0].tolist() == ids + end + [0] * (1024 - len(ids + end))
    assert batch.targets[batch.targets != IGNORE].tolist() == (ids + end)[1:]


@pytest.mark.parametrize("template", list(ENDS))
def test_answers_in_the_prompt_are_not_completions(tokenizer: Any, template: str) -> None:
    """prompt and completion, in both forms of datasets; answers in shots are part of the prompt."""
    shots, last = messages_of([("big?", "large"), ("fast?", "quick")]), ("small?", "tiny")
    rows = {
        "prompt": [[*shots, {"role": "user", "content": last[0]}]],
        "completion": [[{"role": "assistant", "content": last[1]}]],
    }
    lead = " " if template == PLAIN_TEMPLATE else ""
    assert (
        supervised_text(tokenizer, as_batch(tokenizer, template, rows))
        == lead + "tiny" + ENDS[template]
    )
    bare = as_batch(tokenizer, template, {"prompt": ["small?"], "completion": ["tiny"]})
    assert supervised_text(tokenizer, bare) == lead + "tiny" + ENDS[template]


@pytest.mark.parametrize("template", list(ENDS))
def test_an_open_end_teaches_no_stop(tokenizer: Any, template: str) -> None:
    rows = {"prompt": ["small?"], "completion": ["tiny and then the"], "open_end": [True]}
    batch = as_batch(tokenizer, template, rows)
    lead = " " if template == PLAIN_TEMPLATE else ""
    assert supervised_text(tokenizer, batch) == lead + "tiny and then the"


def test_malformed_rows_are_left_out_and_counted(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    good = messages_of([("big?", "large")])
    tally = Tally("[data.train.0] x.jsonl")
    rows = {
        "messages": [
            good,
            None,
            [{"role": "user"}],
            [],
            good[:1],
            "hello",
            [*good, {"role": "assistant", "content": " "}],
        ]
    }
    documents = render_rows(rows, ChatFormat(tokenizer, CHATML), None, True, tally)
    assert len(documents["text"]) == 1
    assert sum(tally.counts.values()) == 6
    tally.say()
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "1 left out: no messages, nor prompt and completion" in line
    assert "left out: an empty answer" in line


def test_a_template_that_changes_its_mind_is_named(tokenizer: Any) -> None:
    """Some templates drop earlier thoughts: rendering the beginning alone then tells nothing."""
    fickle = "{{ messages | length }}" + CHATML
    tally = Tally("x")
    documents = render_rows(
        {"messages": [messages_of([("a", "b")])]}, ChatFormat(tokenizer, fickle), None, True, tally
    )
    assert documents["text"] == []
    assert "generation" in next(iter(tally.counts))
    assert (
        len(
            render_rows(
                {"messages": [messages_of([("a", "b")])]},
                ChatFormat(tokenizer, fickle),
                None,
                False,
                tally,
            )["text"]
        )
        == 1
    )


def test_too_long_a_conversation_keeps_its_end(tokenizer: Any) -> None:
    turns = [("big " * 30, "large"), ("small " * 3, "tiny quick")]
    tally = Tally("x")
    batch = as_batch(
        tokenizer, CHATML, {"messages": [messages_of(turns)]}, block_tokens=64, tally=tally
    )
    assert batch.input_ids.shape == (1, 64)
    assert batch.position_ids[0].tolist() == list(range(64))
    assert supervised_text(tokenizer, batch).endswith("tiny quick<|im_end|>")
    assert list(tally.counts.values()) == [1]


def test_what_is_no_target_is_told_in_ranges_that_do_not_touch(tokenizer: Any) -> None:
    rows = {"messages": [messages_of([("big", "small"), ("old", "new")])]}
    for template in ENDS:
        documents = render_rows(rows, ChatFormat(tokenizer, template), None, True, Tally("x"))
        (ranges,) = pack(documents, tokenizer, 256, end_of_text_id(tokenizer), Tally("x"))[
            "unsupervised"
        ]
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(ranges[:-1])), (
            ranges
        )  # the last one is the padding


def test_each_part_begins_with_bos_where_the_tokenizer_sets_it(tiny: TinyWorld) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tiny.folder / "teacher"))
    plain = {
        "text": ["big small old new " * 10],
        "title": [""],
        "chat": [False],
        "open_end": [False],
        "completions": [[]],
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
    short = pack(
        {name: values * 2 for name, values in plain.items()} | {"text": ["old new old", "big"]},
        tokenizer,
        10,
        END_ID,
        Tally("x"),
    )
    assert [short["input_ids"][0][start] for start in short["segment_starts"][0]] == [bos, bos]
    for template in (CHATML, "{{ 'a' }}" + CHATML):  # a template may write it itself
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
    assert sorted(segment.digest for block in blocks for segment in block) == list(
        range(len(lengths))
    )
    rows = [block_row(block, 50, pad_id=99) for block in blocks]
    assert all(len(row["input_ids"]) == 50 for row in rows)
    for row, block in zip(rows, blocks, strict=True):
        for segment, start in zip(block, row["segment_starts"], strict=False):
            assert row["input_ids"][start : start + len(segment.tokens)] == segment.tokens
            assert [start, start + 1] in row["unsupervised"]
    # No two blocks could be one: what best fit promises.
    filled = sorted(sum(len(segment.tokens) for segment in block) for block in blocks)
    assert len(filled) < 2 or filled[0] + filled[1] > 50


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
        told = tokenizer.decode(chats[chats != IGNORE]).split("<|endoftext|>")[:-1]
        assert sorted(told) == sorted(answer.removesuffix("<|endoftext|>") for answer in answers)


def test_a_stream_of_conversations_is_the_same(tiny: TinyWorld, chat_file: str) -> None:
    keys = [
        f"data.train=[{chat_file}]",
        "data.chat_template=plain",
        "data.heldout=[]",
        "data.heldout_fraction=0.2",
    ]
    mapped = train_blocks_of(load_spec(tiny.spec_file, keys))
    streamed = train_blocks_of(
        load_spec(tiny.spec_file, [*keys, "data.stream=true", "student.layers=first"])
    )
    assert [row["input_ids"] for row in streamed] == [row["input_ids"] for row in mapped]


def test_wrong_chat_settings_are_named(tiny: TinyWorld, chat_file: str, tmp_path: Path) -> None:
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
    assert (
        len(
            train_blocks_of(
                load_spec(
                    tiny.spec_file,
                    [
                        f"data.train=[{chat_file}]",
                        f"data.chat_template={template}",
                        "data.block_tokens=128",
                    ],
                )
            )
        )
        > 10
    )
