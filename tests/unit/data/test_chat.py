"""Conversations: what is rendered, and which tokens are supervised."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dskd_ds.data.batches import IGNORE
from dskd_ds.data.blocks import end_of_text_id
from dskd_ds.data.chat import PLAIN_TEMPLATE, ChatFormat, render_rows
from dskd_ds.data.packing import pack
from dskd_ds.data.tally import Tally
from tests.unit.data.chats import (
    CHATML,
    ENDS,
    as_batch,
    conversations,
    messages_of,
    supervised_text,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=conversations, template=st.sampled_from(list(ENDS)))
def test_targets_are_exactly_the_completions(
    tokenizer: Any, turns: list[tuple[str, str]], template: str
) -> None:
    batch = as_batch(tokenizer, template, {"messages": [messages_of(turns)]})
    lead = " " if template == PLAIN_TEMPLATE else ""
    assert supervised_text(tokenizer, batch) == "".join(
        lead + answer + ENDS[template] for _, answer in turns
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    tally.print_counts()
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "1 left out: no messages, nor prompt and completion" in line
    assert "left out: an empty answer" in line


def test_a_template_that_renders_a_prefix_differently_is_reported(tokenizer: Any) -> None:
    """Some templates drop earlier reasoning, so a rendered prefix does not locate completions."""
    chat = ChatFormat(tokenizer, "{{ messages | length }}" + CHATML)
    rows = {"messages": [messages_of([("a", "b")])]}
    tally = Tally("x")
    only_completions = render_rows(rows, chat, None, True, tally)
    assert only_completions["text"] == []
    assert "generation" in next(iter(tally.counts))
    everything = render_rows(rows, chat, None, False, tally)
    assert len(everything["text"]) == 1


@pytest.mark.parametrize("content", ["{{ m.content }}", "{{ m.content | trim }}"])
def test_a_template_that_reasons_before_the_last_answer_only(tokenizer: Any, content: str) -> None:
    """As Qwen3's; an answer that others follow is found nevertheless."""
    chat = ChatFormat(
        tokenizer,
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if loop.last and m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        + content
        + "{{ '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    )
    turns = [("big?", "large"), ("and <|im_end|>?", "m"), ("fast?", " quick \n")]
    tally = Tally("x")
    documents = render_rows(
        {"messages": [messages_of(turns), messages_of([turns[2], turns[0]])]},
        chat,
        None,
        True,
        tally,
    )
    assert not tally.counts
    found = [
        [text[start:end] for start, end in spans]
        for text, spans in zip(documents["text"], documents["completions"], strict=True)
    ]
    quick = "quick" if "trim" in content else " quick \n"
    think = "<think>\n\n</think>\n\n"
    assert found == [
        ["large<|im_end|>", "m<|im_end|>", f"{think}{quick}<|im_end|>"],
        [f"{quick}<|im_end|>", f"{think}large<|im_end|>"],
    ]


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


def test_unsupervised_ranges_do_not_touch(tokenizer: Any) -> None:
    rows = {"messages": [messages_of([("big", "small"), ("old", "new")])]}
    for template in ENDS:
        documents = render_rows(rows, ChatFormat(tokenizer, template), None, True, Tally("x"))
        blocks = pack(documents, tokenizer, 256, end_of_text_id(tokenizer), Tally("x"))
        (ranges,) = blocks["unsupervised"]
        without_padding = ranges[:-1]
        for (_, end), (start, _) in itertools.pairwise(without_padding):
            assert end < start, ranges
