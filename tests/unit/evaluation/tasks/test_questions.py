"""A task's questions, shots and prompts, from files as a user would name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.commands import cli
from dskd_ds.errors import InputError
from dskd_ds.evaluation.tasks.catalogue import TASKS
from dskd_ds.evaluation.tasks.questions import AskedQuestion, read_task


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def package_row(text: str, options: list[str], ideal: str) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": "\n".join([text, *options])}], "ideal": ideal}


def quartz_rows(count: int) -> list[dict[str, Any]]:
    return [
        package_row(f"Question {i}?\n", [" A: increases", " B: decreases"], "AB"[i % 2])
        for i in range(count)
    ]


def quartz(tmp_path: Path, **options: Any) -> list[AskedQuestion]:
    settings = {"data_dir": str(tmp_path), "limit": None, "seed": 0} | options
    return read_task(TASKS["quartz"], **settings)


def test_a_files_questions_are_split_into_asked_ones_and_shots(tmp_path: Path) -> None:
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(200))
    asked = quartz(tmp_path)
    texts = {question.question.text for question in asked}
    shots = {shot.text for question in asked for shot in question.shots}
    assert 110 < len(asked) < 170
    assert not texts & shots
    assert all(len(question.shots) == 5 for question in asked)
    assert quartz(tmp_path) == asked
    assert quartz(tmp_path, seed=1) != asked
    assert quartz(tmp_path, limit=7) == asked[:7]  # shots do not depend on the limit


def test_a_question_that_comes_twice_is_asked_once(tmp_path: Path) -> None:
    rows = quartz_rows(20)
    write_rows(tmp_path / "quartz.jsonl", rows)
    once = quartz(tmp_path)
    write_rows(tmp_path / "quartz.jsonl", rows + rows)
    assert [question.id for question in quartz(tmp_path)] == [question.id for question in once]


def test_a_file_of_shots_is_taken(tmp_path: Path) -> None:
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(10))
    own = [package_row(f"Shot {i}?", ["A: yes", "B: no"], "A") for i in range(6)]
    write_rows(tmp_path / "quartz.shots.jsonl", own)
    asked = quartz(tmp_path)
    assert len(asked) == 10
    assert all(shot.text.startswith("Shot") for question in asked for shot in question.shots)


def test_shots_of_mmlu_are_of_the_same_topic(tmp_path: Path) -> None:
    rows = [
        {"question": f"{topic} {i}?", "choices": list("wxyz"), "answer": i % 4, "subject": topic}
        for topic in ("law", "art")
        for i in range(60)
    ]
    write_rows(tmp_path / "mmlu.jsonl", rows)
    for asked in read_task(TASKS["mmlu"], str(tmp_path), None, 0):
        assert {shot.topic for shot in asked.shots} == {asked.question.topic}


def test_shots_of_squad_are_of_the_same_context_and_have_answers(tmp_path: Path) -> None:
    rows = [
        {
            "context": f"Context {number}.",
            "question": f"Question {number} {place}?",
            "answers": {"text": [] if place == 0 else ["Context", "context"], "answer_start": []},
        }
        for number in range(5)
        for place in range(3)
    ]
    write_rows(tmp_path / "squadv2.jsonl", rows)
    asked = read_task(TASKS["squadv2"], str(tmp_path), None, 0)
    assert len(asked) == 15
    for question in asked:
        (shot,) = question.shots
        assert shot.context == question.question.context
        assert shot.text != question.question.text
        assert shot.answer == "Context"
        has_answer = not question.question.text.endswith("0?")
        assert question.answers == (("Context", "context") if has_answer else ())


PASSAGE = "Passage: A. Smith wrote it.\n\nQuestion: Who?"


@pytest.mark.parametrize(
    ("task", "row", "text", "options", "answer"),
    [
        (
            "logiqa",
            package_row(PASSAGE, ["A. Smith", "B. Jones", "C. Brown", "D. Green"], "C"),
            PASSAGE,
            ["Smith", "Jones", "Brown", "Green"],
            "C",
        ),
        (
            "medmcqa",
            package_row("Subject: Anatomy\n\nWhich?", ["a) Bone", "b) Skin"], "b) Skin"),
            "Subject: Anatomy\n\nWhich?",
            ["Bone", "Skin"],
            "B",
        ),
    ],
)
def test_rows_of_the_package_evals(
    task: str, row: dict[str, Any], text: str, options: list[str], answer: str
) -> None:
    question = TASKS[task].read(row)
    assert question.text == text
    assert [option.text for option in question.options] == options
    assert question.answer == answer
    assert question.topic == ("Anatomy" if task == "medmcqa" else "")


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give --data-dir DIR with DIR/quartz.jsonl"):
        quartz(tmp_path)
    bad = [{"input": [{"role": "user", "content": "No options?"}], "ideal": "A"}] * 3
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(5) + bad)
    with pytest.raises(InputError, match="3 of 8 rows are not questions of quartz"):
        quartz(tmp_path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tasks", "arc_chalenge", "--model", "a=b"], "did you mean arc_challenge?"),
        (["--tasks", "quartz"], "name a spec, or --model NAME=PATH"),
        ([], "held-out text needs a spec"),
        (["--tasks", "quartz", "--model", "=b"], '"" cannot be a name'),
        (["--tasks", "quartz", "--model", "runs/a=b"], '"runs/a" cannot be a name'),
        (["--tasks", "quartz", "--model", "run:a=b"], '"run:a" cannot be a name'),
        (["--tasks", "quartz", "--model", "a=b", "--model", "a=c"], "a is given more than once"),
    ],
)
def test_a_wrong_command_is_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", *argv]) == 2
    assert message in capsys.readouterr().err
