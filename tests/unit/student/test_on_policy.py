"""Which steps are on-policy, and which prompts the student continues."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.data.batches import IGNORE, Sample, make_batch
from dskd_ds.data.blocks import end_of_text_id
from dskd_ds.data.chat import PLAIN_TEMPLATE, ChatFormat, render_rows
from dskd_ds.data.packing import Segment, block_row, pack
from dskd_ds.data.tally import Tally
from dskd_ds.errors import InputError
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.spec import load_spec
from dskd_ds.spec.training import TrainSpec
from dskd_ds.student.on_policy import is_on_policy
from dskd_ds.student.prompts import prompts_of
from tests.conftest import TinyWorld
from tests.unit.data.chats import CHATML

END = 0


def settings(prompt: int, new: int) -> TrainSpec:
    return TrainSpec(
        global_batch_blocks=1, on_policy_prompt_tokens=prompt, on_policy_new_tokens=new
    )


@given(percent=st.integers(0, 100), steps=st.integers(1, 300))
def test_steps_are_spread_evenly(percent: int, steps: int) -> None:
    chosen = [step for step in range(steps) if is_on_policy(percent / 100, step)]
    assert abs(len(chosen) - steps * percent / 100) < 1.001
    gaps = {later - earlier for earlier, later in itertools.pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_half_of_the_steps() -> None:
    assert [is_on_policy(0.5, step) for step in range(6)] == [False, True] * 3
    assert not any(is_on_policy(0.0, step) for step in range(100))
    assert all(is_on_policy(1.0, step) for step in range(100))


def test_a_text_gives_a_prompt_every_stride() -> None:
    text = Segment(list(range(1, 26)), [], digest=7, offset=100)
    short = Segment([50, 51, 52, 53, 54, END], [], digest=8, offset=0)
    row = block_row([text, short], 31, END)
    prompts = prompts_of(row, settings(6, 4), 31, END, [])
    assert [prompt.tokens for prompt in prompts] == [
        [1, 2, 3, 4, 5, 6],
        [11, 12, 13, 14, 15, 16],
        [21, 22, 23, 24, 25],
    ]
    assert [(prompt.digest, prompt.offset) for prompt in prompts] == [(7, 100), (7, 110), (7, 120)]
    (prompt,) = prompts_of(block_row([short], 6, END), settings(6, 1), 6, END, [])
    assert prompt.tokens == [50, 51, 52, 53, 54]


def test_a_conversation_gives_what_comes_before_its_last_answer() -> None:
    ids = list(range(1, 21))
    unsupervised = [(0, 5), (8, 14), (20, 21)]  # answers are 6 to 8 and 15 to 20
    chat = Segment([*ids, END], unsupervised, digest=1, offset=0)
    row = block_row([chat], 40, END)  # the rest of the block is padding
    assert [p.tokens for p in prompts_of(row, settings(30, 10), 40, END, [])] == [ids[:14]]
    assert [p.tokens for p in prompts_of(row, settings(5, 10), 40, END, [])] == [ids[9:14]]


@pytest.mark.parametrize("template", [CHATML, PLAIN_TEMPLATE])
def test_no_template_lets_the_answer_into_its_prompt(tiny: TinyWorld, template: str) -> None:
    """ChatML and plain end the last answer with a newline; packing adds the end-of-text token."""
    tokenizer = load_tokenizer(str(tiny.folder / "teacher"))
    chat = ChatFormat(tokenizer, template)
    end_id = end_of_text_id(tokenizer)
    question = [{"role": "user", "content": "big river"}]
    rows = {"messages": [[*question, {"role": "assistant", "content": "old town"}]]}
    documents = render_rows(rows, chat, None, True, Tally("x"))
    blocks = pack(documents, tokenizer, 128, end_id, Tally("x"))
    block = {name: values[0] for name, values in blocks.items()}
    (prompt,) = prompts_of(block, settings(64, 16), 128, end_id, [])
    assert tokenizer.decode(prompt.tokens) == chat.render(question, generation_prompt=True)


def test_each_prompt_starts_with_bos_if_texts_do() -> None:
    row = block_row([Segment([77, *range(1, 25)], [], digest=7, offset=0)], 31, END)
    prompts = prompts_of(row, settings(6, 4), 31, END, [77])
    assert [prompt.tokens for prompt in prompts] == [
        [77, 1, 2, 3, 4, 5],
        [77, 11, 12, 13, 14, 15],
        [77, 21, 22, 23, 24],
    ]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    prompt=st.integers(1, 20),
    new=st.integers(1, 20),
)
def test_continuations_fit_the_block_and_nothing_else_is_supervised(
    lengths: list[int], prompt: int, new: int
) -> None:
    size = sum(lengths)
    block = max(size, prompt + new)
    row = block_row([Segment([n + 1] * n, [], n, 0) for n in lengths], block, END)
    prompts = prompts_of(row, settings(prompt, new), block, END, [])
    written = [
        Segment([*p.tokens, *[99] * new], [(0, len(p.tokens))], p.digest, p.offset) for p in prompts
    ]
    batch = make_batch([block_row(written, block, END)], [Sample(0, 0)])
    assert batch.targets[batch.targets != IGNORE].tolist() == [99] * (new * len(prompts))


def test_prompts_and_new_tokens_longer_than_a_block_are_refused() -> None:
    spec = "tests/base_run.toml"
    # A prompt of 64 tokens is the default, so that is 264 tokens; a block has 256.
    wrong = ["train.on_policy_fraction=0.5", "train.on_policy_new_tokens=200"]
    with pytest.raises(InputError, match="that is 264 tokens, and a block has 256"):
        load_spec(spec, wrong)
    without_on_policy_steps = load_spec(spec, wrong[1:])
    assert without_on_policy_steps.train.on_policy_fraction == 0
