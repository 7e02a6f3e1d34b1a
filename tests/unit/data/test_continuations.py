"""The teacher's continuations: their tokens, cuts and keys, and how training reads them."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dskd_ds.data.batches import IGNORE
from dskd_ds.data.chat import PLAIN_TEMPLATE, ChatFormat, render_rows
from dskd_ds.data.continuations import continued, cut_at_random, write_continuations
from dskd_ds.data.continue_facts import read_facts
from dskd_ds.data.continue_options import add_options, argv_of, recipe_of
from dskd_ds.data.continue_prompts import Prompt, batches_of
from dskd_ds.data.tally import Tally
from dskd_ds.errors import InputError
from dskd_ds.models.generation import continue_tokens
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.spec.recipe import QuestionSetSpec, RecipeSpec
from tests.conftest import WORDS, TinyWorld
from tests.of_spec import teacher_of
from tests.unit.data.chats import as_batch


def prompt_of(number: int, num_tokens: int, new_tokens: int = 8) -> Prompt:
    return Prompt(
        number=number,
        row_id="",
        set_name="",
        title="t",
        messages=[],
        answer=None,
        tokens=np.zeros(num_tokens, dtype=np.int32),
        new_tokens=new_tokens,
    )


def test_batches_do_not_depend_on_order() -> None:
    prompts = [prompt_of(i, n) for i, n in enumerate([3, 9, 1, 9, 4])]
    batches = batches_of(prompts, 2)
    assert [[prompt.number for prompt in batch] for batch in batches] == [[1, 3], [4, 0], [2]]
    assert batches_of(prompts[::-1], 2) == batches


def test_a_batch_has_one_number_of_new_tokens() -> None:
    prompts = [prompt_of(i, 5, new_tokens=1 + 9 * (i % 2)) for i in range(6)]
    batches = batches_of(prompts, 2)
    assert [[prompt.new_tokens for prompt in batch] for batch in batches] == [
        [10, 10],
        [10],
        [1, 1],
        [1],
    ]


def test_every_cut_is_as_likely() -> None:
    """L is uniform in P ... P + k - 1, so that 1 to k of the k new tokens are kept."""
    tokens = list(range(10))
    cuts = Counter(len(cut_at_random(tokens, (3, 0, i))) for i in range(5000))
    assert set(cuts) == set(range(1, 11))
    assert max(abs(count - 500) for count in cuts.values()) < 100  # 4.7 standard deviations
    assert cut_at_random(tokens, (3, 0, 7)) == cut_at_random(tokens, (3, 0, 7))
    other_epoch = [len(cut_at_random(tokens, (3, 1, i))) for i in range(20)]
    assert other_epoch != [len(cut_at_random(tokens, (3, 0, i))) for i in range(20)]
    assert cut_at_random([5], (3, 0, 0)) == [5]


def test_training_reads_exactly_the_prompts_tokens_and_the_teachers(tokenizer: Any) -> None:
    """Also tokens that no text gives back: special ones, and a piece of a character."""
    chat = ChatFormat(tokenizer, PLAIN_TEMPLATE)
    messages = [{"role": "user", "content": "what is big?"}]
    prompt = tokenizer(chat.render(messages, generation_prompt=True))["input_ids"]
    for kept in ([0], [5, 0], tokenizer(" é")["input_ids"][:-1], [40, 41, 42, 40]):
        row = continued(prompt_of(0, 1), kept, kept, chat, epoch=0)
        row["prompt"] = messages
        rows = {name: [value] for name, value in row.items()}
        for only_completions in (False, True):
            batch = as_batch(tokenizer, PLAIN_TEMPLATE, rows, only_completions)
            length = len(prompt) + len(kept)
            assert batch.input_ids[0, :length].tolist() == prompt + kept
            targets = batch.targets[0][batch.targets[0] != IGNORE].tolist()
            # N = L: every token but the first is a target, and nothing follows the last one.
            assert targets == (kept if only_completions else (prompt + kept)[1:])


def test_tokens_of_another_tokenizer_are_refused(tokenizer: Any) -> None:
    chat = ChatFormat(tokenizer, PLAIN_TEMPLATE)
    row = continued(prompt_of(0, 1), [5], [5], chat, epoch=0)
    row |= {"prompt": [{"role": "user", "content": "big?"}], "tokenizer": "another"}
    with pytest.raises(InputError, match="tokens of another tokenizer"):
        as_batch(tokenizer, PLAIN_TEMPLATE, {name: [value] for name, value in row.items()})


def test_continued_rows_stand_beside_ordinary_ones(tokenizer: Any) -> None:
    """As in one file, where an ordinary conversation has no tokens and no tokenizer."""
    chat = ChatFormat(tokenizer, PLAIN_TEMPLATE)
    row = continued(prompt_of(0, 1), [5, 0], [5, 0], chat, epoch=0)
    row["prompt"] = [{"role": "user", "content": "big?"}]
    ordinary = row | {"completion_ids": None, "tokenizer": None}
    rows = {name: [row[name], ordinary[name]] for name in row}
    documents = render_rows(rows, chat, None, True, Tally("chats"))
    assert documents["continuation"] == [[5, 0], []]


KEYS = ["data.chat_template=plain", "data.block_tokens=64", "seed=5"]


@pytest.fixture
def spec(tiny: TinyWorld) -> RunSpec:
    return load_spec(tiny.spec_file, KEYS)


@pytest.fixture
def chats(tmp_path: Path) -> list[dict[str, Any]]:
    """Chats of two sets in two epochs, whose prompts differ between the epochs."""
    both = []
    for epoch in range(2):
        rows = []
        for i in range(12):
            question = {"role": "user", "content": " ".join(WORDS[i + epoch : i + 4 + epoch])}
            answer = {"role": "assistant", "content": "large"}
            name = "squad" if i % 3 == 0 else "csqa"
            rows.append({"id": f"{name} {i}", "set": name, "messages": [question, answer]})
        path = tmp_path / f"chats-{epoch}.jsonl"
        path.write_text("".join(json.dumps(row | {"title": row["id"]}) + "\n" for row in rows))
        both.append(rows)
    return [row for rows in both for row in rows]


RECIPE = RecipeSpec(
    epochs=2,
    new_tokens=1,
    temperature=0.6,
    top_p=0.9,
    batch_conversations=5,
    squad=QuestionSetSpec(new_tokens=10),
)


def write(spec: RunSpec, tmp_path: Path, name: str, recipe: RecipeSpec = RECIPE) -> list[Any]:
    """Continue the chats and return the rows of all epochs."""
    write_continuations(
        spec,
        teacher_of(spec),
        output=str(tmp_path / f"{name}-{{epoch}}.jsonl"),
        inputs=[str(tmp_path / "chats-{epoch}.jsonl")],
        recipe=recipe,
        comm=Communicator(),
    )
    files = [tmp_path / f"{name}-{epoch}.jsonl" for epoch in range(recipe.epochs)]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_each_epoch_is_continued_with_its_own_draws(
    spec: RunSpec,
    chats: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = write(spec, tmp_path, "out")
    table = capsys.readouterr().out
    assert [row["id"] for row in rows] == [row["id"] for row in chats]
    assert [row["epoch"] for row in rows] == [0] * 12 + [1] * 12
    lengths = {
        name: Counter(len(row["completion_ids"]) for row in rows if row["set"] == name)
        for name in ("squad", "csqa")
    }
    assert set(lengths["csqa"]) == {1}
    assert len(lengths["squad"]) > 2
    assert max(lengths["squad"]) <= 10
    _agrees_with_a_slow_loop(spec, rows, chats)
    # The gold answer is no part of a row, and is only compared.
    for row, chat in zip(rows, chats, strict=True):
        assert row["prompt"] == chat["messages"][:-1]
    facts = read_facts(tmp_path / "out-1.jsonl")
    assert facts["sets"]["squad"]["num_written"] == 4
    num_equal = sum(row["equals_answer"] for row in rows if row["epoch"] and row["set"] == "csqa")
    assert facts["sets"]["csqa"]["num_equal"] == num_equal
    assert table.count("tokens each") == 2


def _agrees_with_a_slow_loop(
    spec: RunSpec, rows: list[dict[str, Any]], chats: list[dict[str, Any]]
) -> None:
    """One conversation after the other, alone in its batch, with the documented keys."""
    from transformers import AutoModelForCausalLM

    from dskd_ds.data.packing import text_digest

    model = AutoModelForCausalLM.from_pretrained(spec.teacher.model).eval()
    tokenizer = teacher_of(spec).tokenizer
    chat = ChatFormat(tokenizer, PLAIN_TEMPLATE)
    for index, (row, source) in enumerate(zip(rows, chats, strict=True)):
        text = chat.render(source["messages"][:-1], generation_prompt=True)
        key = (5, index // 12, text_digest(source["id"]))
        tokens = continue_tokens(
            model,
            [tokenizer(text)["input_ids"]],
            keys=[(*key, 0)],
            new_tokens=10 if source["set"] == "squad" else 1,
            temperature=0.6,
            end_ids=[0],
            top_p=0.9,
        )[0]
        assert row["completion_ids"] == cut_at_random(tokens, key)
        assert row["equals_answer"] == (tokenizer.decode(tokens).strip() == "large")


@pytest.mark.usefixtures("chats")
def test_a_job_goes_on_with_the_epoch_at_which_it_was_killed(spec: RunSpec, tmp_path: Path) -> None:
    rows = write(spec, tmp_path, "out")
    second = tmp_path / "out-1.jsonl"
    first_bytes, first_time = (tmp_path / "out-0.jsonl").read_bytes(), _mtime(tmp_path)
    second.unlink()
    # Killed after the first epoch was joined, before its counts were written.
    facts = tmp_path / "out-0.jsonl.facts.json"
    facts.write_text(json.dumps({"made_of": read_facts(tmp_path / "out-0.jsonl")["made_of"]}))
    assert write(spec, tmp_path, "out") == rows
    assert (tmp_path / "out-0.jsonl").read_bytes() == first_bytes
    assert _mtime(tmp_path) == first_time
    second.unlink()
    other = RECIPE.model_copy(update={"temperature": 0.7})
    with pytest.raises(InputError, match="other settings, another teacher"):
        write(spec, tmp_path, "out", other)
    facts.unlink()
    with pytest.raises(InputError, match="other settings, another teacher"):
        write(spec, tmp_path, "out")


def _mtime(tmp_path: Path) -> int:
    return (tmp_path / "out-0.jsonl").stat().st_mtime_ns


@pytest.mark.usefixtures("chats")
def test_too_many_lost_conversations_stop_the_job(tiny: TinyWorld, tmp_path: Path) -> None:
    strict, lenient, rows = (
        load_spec(tiny.spec_file, [*KEYS, f"data.max_lost_fraction={share}", *more])
        for share, more in ((0.01, []), (0.5, []), (0.01, ["data.packing=none"]))
    )
    long = RECIPE.model_copy(update={"squad": QuestionSetSpec(new_tokens=60)})
    with pytest.raises(InputError) as caught:
        write(strict, tmp_path, "out", long)
    assert "4 of 12 conversations are left out" in str(caught.value)
    assert "4 left out: the prompt and 60 tokens are longer than a block of 64" in str(caught.value)
    assert "[data] max_lost_fraction = 0.01" in str(caught.value)
    assert len(write(lenient, tmp_path, "out", long)) == 16
    lost = read_facts(tmp_path / "out-0.jsonl")["sets"]
    assert [lost[name]["num_lost"] for name in ("squad", "csqa")] == [4, 0]
    # Without blocks only the teacher's limit counts.
    assert len(write(rows, tmp_path, "rows", long)) == 24


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(["--output", "out.jsonl", *argv])


def test_options_override_the_recipe(tiny: TinyWorld) -> None:
    keys = ["recipe.temperature=0.6", "recipe.squad.new_tokens=10", "recipe.epochs=2"]
    spec = load_spec(tiny.spec_file, keys)
    assert recipe_of(parsed(), spec) == spec.recipe
    argv = ("--new-tokens", "3", "--temperature", "0.0", "--epochs", "1", "--whole", "--batch", "2")
    recipe = recipe_of(parsed(*argv), spec)
    assert (recipe.new_tokens_of("squad"), recipe.temperature, recipe.epochs) == (3, 0.0, 1)
    assert (recipe.cut, recipe.batch_conversations) == ("none", 2)
    # The ranks get the same options.
    again = argv_of(parsed(*argv, "--input", "a", "--input", "b", "--top-p", "1.0"))[2:]
    assert recipe_of(parsed(*again), spec) == recipe
    assert parsed(*again).input == ["a", "b"]
    with pytest.raises(InputError, match=r"--top-p 0.5: it has no effect"):
        recipe_of(parsed("--top-p", "0.5", "--temperature", "0"), spec)
    with pytest.raises(InputError, match=r"--top-p 0.0: must be above 0"):
        recipe_of(parsed("--top-p", "0"), spec)
    with pytest.raises(InputError, match="--epochs 0: must be at least 1"):
        recipe_of(parsed("--epochs", "0"), spec)
