"""Question sets split into training conversations, shots and a test, as files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.commands import cli
from dskd_ds.data.chat import PLAIN_TEMPLATE, ChatFormat
from dskd_ds.errors import InputError
from dskd_ds.evaluation.tasks.catalogue import TASKS
from dskd_ds.evaluation.tasks.documents import (
    fit_prompt,
    scorings_of,
    write_documents,
    written_scorings,
)
from dskd_ds.evaluation.tasks.question_files import QuestionSplit, SetCounts, write_question_files
from dskd_ds.evaluation.tasks.questions import read_task
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.spec.recipe import RecipeSpec
from tests.conftest import TinyWorld
from tests.unit.data.chats import CHATML
from tests.unit.evaluation.tasks.test_questions import quartz_rows, write_rows

QUARTZ = TASKS["quartz"]


class WordTokenizer:
    """Renders a conversation as text and reads one token per word."""

    def apply_chat_template(self, messages: Any, tokenize: bool, **_: Any) -> str:
        assert not tokenize
        return " ".join(f"{message['role']}: {message['content']}" for message in messages)

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": list(range(len(text.split())))}


def tokenizer_of(tiny: TinyWorld) -> Any:
    return load_tokenizer(str(tiny.folder / "teacher"))


CHAT = ChatFormat(WordTokenizer(), "words")


def split_of(**settings: Any) -> QuestionSplit:
    usual = {
        "chat": CHAT,
        "recipe": RecipeSpec(),
        "max_prompt_tokens": 60,
        "max_shots": None,
        "train_tokens": 2000,
        "test_questions": 20,
        "seed": 0,
    }
    return QuestionSplit(**(usual | settings))


def write(folder: Path, num_rows: int = 300, **settings: Any) -> SetCounts:
    write_rows(folder / "data" / "quartz.jsonl", quartz_rows(num_rows))
    counts = write_question_files(
        folder / "out", split_of(**settings), [QUARTZ], str(folder / "data")
    )
    return counts["quartz"]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def questions_in(chat: dict[str, Any]) -> list[str]:
    """The first line of every user turn: the shots' questions, then the question itself."""
    users = [message for message in chat["messages"] if message["role"] == "user"]
    return [message["content"].splitlines()[0] for message in users]


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=rf"--output {tmp_path}/out/.*: it cannot be written"):
        write(tmp_path)


def test_no_question_is_in_two_parts(tmp_path: Path) -> None:
    counts = write(tmp_path)
    assert counts.train + counts.shots + counts.test == 300
    assert 150 < counts.train < 210
    assert 15 < counts.shots < 45
    train, heldout = (rows_of(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "heldout"))
    asked = {questions_in(chat)[-1] for chat in train}
    tested = {questions_in(chat)[-1] for chat in heldout}
    shots = {text for chat in [*train, *heldout] for text in questions_in(chat)[:-1]}
    pool = read_task(QUARTZ, str(tmp_path / "out" / "test"), None, 0)
    assert len(tested) == 20
    assert {question.question.text for question in pool} == tested
    assert {shot.text for question in pool for shot in question.shots} <= shots | {
        line["input"][-1]["content"].splitlines()[0]
        for line in rows_of(tmp_path / "out" / "test" / "quartz.shots.jsonl")
    }
    assert shots
    assert not asked & tested
    assert not (asked | tested) & shots


def test_conversations_fit_and_have_the_wanted_number_of_tokens(tmp_path: Path) -> None:
    counts = write(tmp_path, max_prompt_tokens=60, train_tokens=1500)
    train = rows_of(tmp_path / "out" / "train.jsonl")
    assert all(chat["tokens"] <= 60 for chat in train)
    assert 1500 - 60 <= sum(chat["tokens"] for chat in train) <= 1500
    assert counts.train_tokens == sum(chat["tokens"] for chat in train)
    num_shots = {len(questions_in(chat)) - 1 for chat in train}
    assert max(num_shots) < 5  # not all shots fit
    assert min(num_shots) > 0
    shutil.rmtree(tmp_path / "out")
    write(tmp_path, max_prompt_tokens=500, max_shots=2)
    train = rows_of(tmp_path / "out" / "train.jsonl")
    assert {len(questions_in(chat)) - 1 for chat in train} == {2}


def test_questions_that_are_too_long_without_shots_are_left_out_and_counted(
    tmp_path: Path,
) -> None:
    counts = write(tmp_path, max_prompt_tokens=5)
    assert counts.train_chats == counts.test_chats == 0
    assert counts.too_long == counts.train + counts.test


def test_a_question_stays_in_its_part_when_the_set_grows(tmp_path: Path) -> None:
    write(tmp_path, num_rows=300, test_questions=1000)
    before = {json.dumps(row) for row in rows_of(tmp_path / "out" / "test" / "quartz.jsonl")}
    write(tmp_path, num_rows=400, test_questions=1000)
    after = {json.dumps(row) for row in rows_of(tmp_path / "out" / "test" / "quartz.jsonl")}
    assert before < after


def test_the_same_call_writes_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    write(tmp_path)
    first = (tmp_path / "out" / "train.jsonl").read_bytes()
    write(tmp_path)
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == first
    write(tmp_path, seed=1)
    assert (tmp_path / "out" / "train.jsonl").read_bytes() != first


@pytest.mark.parametrize("max_tokens", [20, 40, 60, 1000])
def test_a_prompt_keeps_as_many_shots_as_fit(tmp_path: Path, max_tokens: int) -> None:
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(60))
    recipe = RecipeSpec()
    asked = read_task(QUARTZ, str(tmp_path), 3, 0)
    for question in asked:
        fitted = fit_prompt(QUARTZ, question, CHAT, recipe, max_tokens)
        if max_tokens == 20:
            assert fitted is None
            continue
        assert fitted is not None
        assert fitted.shots == question.shots[len(question.shots) - len(fitted.shots) :]
        assert (len(fitted.shots) == 5) == (max_tokens == 1000)


def test_a_tokenizer_without_a_chat_template_is_refused(
    tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(10))
    argv = ["data", "questions", str(tiny.spec_file), "--output", str(tmp_path / "out")]
    assert cli.main([*argv, "--tasks", "quartz", "--data-dir", str(tmp_path)]) == 2
    assert "the tokenizer has no chat template" in capsys.readouterr().err


def test_prompts_are_rendered_as_the_spec_says(tiny: TinyWorld, tmp_path: Path) -> None:
    """A base model's tokenizer has no chat template; conversations of the run are `plain`."""
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(60))
    argv = ["data", "questions", str(tiny.spec_file), "--output", str(tmp_path / "out")]
    argv += ["--set", "data.chat_template=plain"]
    assert cli.main([*argv, "--tasks", "quartz", "--data-dir", str(tmp_path)]) == 0
    assert rows_of(tmp_path / "out" / "train.jsonl")


def test_labels_are_scored_as_the_template_writes_an_answer(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(60))
    asked = read_task(QUARTZ, str(tmp_path), 3, 0)
    for template, end, lead in ((PLAIN_TEMPLATE, "\nAssistant:", " "), (CHATML, "assistant\n", "")):
        chat = ChatFormat(tokenizer_of(tiny), template)
        write_documents(tmp_path / "harness", QUARTZ, asked, chat, RecipeSpec())
        for row in rows_of(tmp_path / "harness" / "quartz.jsonl"):
            assert row["prompt"].endswith(end)
            assert row["labels"] == [f"{lead}A", f"{lead}B"]
            assert row["lead"] == lead
            assert row["answer"] in ("A", "B")


def test_a_template_that_rejects_a_prompt_is_reported(tiny: TinyWorld, tmp_path: Path) -> None:
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(60))
    asked = read_task(QUARTZ, str(tmp_path), 3, 0)
    no_system = "{{ raise_exception('no system turn') if messages[0]['role'] == 'system' }}"
    chat = ChatFormat(tokenizer_of(tiny), no_system + CHATML)
    with pytest.raises(InputError, match=r"rejects it \(no system turn\).\n.*system_turn"):
        write_documents(tmp_path / "harness", QUARTZ, asked, chat, RecipeSpec())


def test_label_scoring_leaves_no_files_for_answers(tmp_path: Path) -> None:
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(60))
    asked = read_task(QUARTZ, str(tmp_path), 3, 0)
    folder = tmp_path / "harness"
    everything = write_documents(folder, QUARTZ, asked, CHAT, RecipeSpec())
    assert everything == ["quartz_label", "quartz_exact"]
    assert written_scorings(QUARTZ, folder) == list(scorings_of(QUARTZ))
    labels = write_documents(folder, QUARTZ, asked, CHAT, RecipeSpec(), is_label_only=True)
    assert labels == ["quartz_label"]
    assert written_scorings(QUARTZ, folder) == ["label"]
