"""Which steps are on-policy, and what the student is given to go on from."""

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
from dskd_ds.student.on_policy import is_on_policy, prompts_of
from tests.conftest import TinyWorld
from tests.unit.data.test_chat import CHATML

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


def test_a_text_gives_a_beginning_every_stride() -> None:
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
    assert [
        prompt.tokens
        for prompt in prompts_of(block_row([short], 6, END), settings(6, 1), 6, END, [])
    ] == [[50, 51, 52, 53, 54]]


def test_a_conversation_gives_what_stands_before_its_last_answer() -> None:
    ids = list(range(1, 21))
    chat = Segment(
        [*ids, END], [(0, 5), (8, 14), (20, 21)], digest=1, offset=0
    )  # answers are 6 to 8 and 15 to 20
    row = block_row([chat], 40, END)  # the rest of the block is padding
    assert [p.tokens for p in prompts_of(row, settings(30, 10), 40, END, [])] == [ids[:14]]
    assert [p.tokens for p in prompts_of(row, settings(5, 10), 40, END, [])] == [ids[9:14]]


@pytest.mark.parametrize("template", [CHATML, PLAIN_TEMPLATE])
def test_no_template_lets_the_answer_into_its_prompt(tiny: TinyWorld, template: str) -> None:
    """ChatML and plain write a line's end after the last answer, and packing the end of the text."""
    tokenizer = load_tokenizer(str(tiny.folder / "teacher"))
    chat = ChatFormat(tokenizer, template)
    asked = [{"role": "user", "content": "big river"}]
    rows = {"messages": [[*asked, {"role": "assistant", "content": "old town"}]]}
    blocks = pack(
        render_rows(rows, chat, None, True, Tally("x")),
        tokenizer,
        128,
        end_of_text_id(tokenizer),
        Tally("x"),
    )
    (prompt,) = prompts_of(
        {name: values[0] for name, values in blocks.items()},
        settings(64, 16),
        128,
        end_of_text_id(tokenizer),
        [],
    )
    assert tokenizer.decode(prompt.tokens) == chat.render(asked, generation_prompt=True)


def test_each_beginning_starts_as_the_model_knows_texts_to() -> None:
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
def test_what_is_written_fits_the_block_and_is_all_that_is_supervised(
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


def test_what_cannot_fit_a_block_is_refused() -> None:
    spec = "ds_configs/runs/quickstart.toml"
    wrong = [
        "train.on_policy_fraction=0.5",
        "train.on_policy_new_tokens=200",
    ]  # and 64 of the text make 264; a block has 256
    with pytest.raises(InputError, match="that is 264 tokens, and a block has 256"):
        load_spec(spec, wrong)
    assert (
        load_spec(spec, wrong[1:]).train.on_policy_fraction == 0
    )  # without on-policy steps it does not matter
