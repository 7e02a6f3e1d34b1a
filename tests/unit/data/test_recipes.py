"""The paper's mixture, from small samples in each set's published format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.commands.cli import main
from dskd_ds.data.recipes.prompts import conversation
from dskd_ds.data.recipes.question_sets import SETS, MalformedRowError
from dskd_ds.spec import load_spec
from dskd_ds.spec.recipe import RecipeSpec
from tests.conftest import TinyWorld
from tests.of_spec import train_blocks_of

ROWS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "csqa": [
        (
            {
                "id": "1a",
                "question": "Where do adults use glue sticks?",
                "question_concept": "glue stick",
                "answerKey": "D",
                "choices": {
                    "label": ["A", "B", "C", "D", "E"],
                    "text": ["classroom", "desk drawer", "at school", "office", "kitchen"],
                },
            },
            "D. office",
        ),
        (
            {
                "answerKey": "A",
                "id": "1b",
                "question": {
                    "question_concept": "bank",
                    "stem": "Where is money kept?",
                    "choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "river"}],
                },
            },
            "A. bank",
        ),
    ],
    "arc": [
        (
            {
                "id": "Mercury_1",
                "question": "Which is warm?",
                "answerKey": "2",
                "choices": {"text": ["ice", "fire", "snow", "rain"], "label": ["1", "2", "3", "4"]},
            },
            "B. fire",
        )
    ],
    "piqa": [
        (
            {
                "goal": "How to boil eggs.",
                "sol1": "Cover them with no water.",
                "sol2": "Cover them with cold water.",
                "label": 1,
            },
            "B. Cover them with cold water.",
        )
    ],
    "mmlu": [
        (
            {
                "question": "What is 2 + 2?",
                "subject": "mathematics",
                "choices": ["3", "4", "5", "6"],
                "answer": 1,
            },
            "B. 4",
        ),
        (
            {
                "train": {
                    "question": "What is 2 + 3?",
                    "subject": "",
                    "choices": ["3", "4", "5", "6"],
                    "answer": 2,
                }
            },
            "C. 5",
        ),
        (
            {
                "question": "Right?",
                "answer_a": "a",
                "answer_b": "b",
                "answer_c": "c",
                "answer_d": "d",
                "correct_answer": "D",
                "topic": "law",
            },
            "D. d",
        ),
    ],
    "squad": [
        (
            {
                "id": "5a",
                "title": "Rivers",
                "context": "The river is cold.",
                "question": "What is cold?",
                "answers": {"text": ["The river", "river"], "answer_start": [0, 4]},
            },
            "The river",
        ),
        (
            {
                "id": "5b",
                "title": "Rivers",
                "context": "The river is cold.",
                "question": "What is warm?",
                "answers": {"text": [], "answer_start": []},
            },
            "unanswerable",
        ),
    ],
}
"""Set -> rows in its published formats, and the right answer."""

BAD: dict[str, dict[str, Any]] = {
    "csqa": {
        "question": "Where?",
        "choices": {"label": ["A"], "text": ["here"]},
        "answerKey": "",
    },  # as in its test split
    "arc": {
        "question": "Which?",
        "choices": {"label": ["A", "B"], "text": ["x", "y"]},
        "answerKey": "E",
    },
    "piqa": {"goal": "How?", "sol1": "so", "sol2": "or so", "label": -1},
    "mmlu": {"question": "What?", "choices": ["a", "b"], "answer": 3, "subject": "x"},
    "squad": {"context": "Text.", "question": "What?"},
}


@pytest.mark.parametrize("name", list(SETS))
def test_published_rows_are_read(name: str) -> None:
    for row, answer in ROWS[name]:
        user, assistant = conversation(RecipeSpec(), name, [], SETS[name].read(row))
        assert assistant == {"role": "assistant", "content": answer}
        if name != "squad":
            assert answer in user["content"].splitlines()
    with pytest.raises(MalformedRowError):
        SETS[name].read(BAD[name])


def write_sets(folder: Path, copies: int) -> list[str]:
    """Write a file per set: many questions and one malformed row. Return the options for them."""
    options = []
    for name, rows in ROWS.items():
        row = rows[0][0]
        field = "goal" if name == "piqa" else "question"
        many = [row | {field: f"{row[field]} ({i})"} for i in range(copies)]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in [*many, BAD[name]]))
        options += [f"--{name}", str(path)]
    return options


def test_the_mixture_has_the_papers_shares_and_shots(
    tmp_path: Path, tiny: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    options, output = write_sets(tmp_path, 40), tmp_path / "mixture" / "all.jsonl"
    assert main(["data", "paper", "--output", str(output), *options]) == 0
    chats = [json.loads(line) for line in output.read_text().splitlines()]
    for name, wanted in SETS.items():
        mine = [chat for chat in chats if chat["title"].startswith(name)]
        assert len(mine) == (12 if name == "squad" else 10)
        assert [chat["id"] for chat in mine] == [chat["title"] for chat in mine]
        for chat in mine:
            assert [message["role"] for message in chat["messages"]] == ["user", "assistant"] * (
                wanted.num_shots + 1
            )
            questions = [message["content"] for message in chat["messages"][::2]]
            assert len(set(questions)) == len(questions)  # a question is no shot of its own
    assert (
        "left out: 1 rows (the first is row 41): the answer is none of the choices"
        in capsys.readouterr().err
    )
    first = output.read_bytes()
    assert main(["data", "paper", "--output", str(output), *options]) == 0
    assert output.read_bytes() == first
    assert main(["data", "paper", "--output", str(output), *options, "--seed", "1"]) == 0
    assert output.read_bytes() != first
    source = f'{{path="{output}", format="chat", title_field="title"}}'
    settings = [
        f"data.train=[{source}]",
        "data.heldout=[]",
        "data.heldout_fraction=0.0",
        "data.chat_template=plain",
        "data.block_tokens=1024",
    ]
    assert len(train_blocks_of(load_spec(tiny.spec_file, settings))) > 10


def test_too_few_questions_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = write_sets(tmp_path, 3)
    output = str(tmp_path / "out.jsonl")
    assert main(["data", "paper", "--output", output, *options, "--only", "piqa"]) == 2
    error = capsys.readouterr().err
    assert (
        "3 questions are too few for 5-shot conversations; left out: 1 rows (the first is row 4): "
        "the answer is none" in error
    )
    assert "goal, sol1, sol2, label" in error
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = write_sets(tmp_path, 10)
    assert main(["data", "paper", "--output", str(tmp_path), *options, "--only", "piqa"]) == 2
    assert f"--output {tmp_path}: it cannot be written" in capsys.readouterr().err


def test_a_missing_file_is_named_by_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["data", "paper", "--output", str(tmp_path / "out.jsonl")]
    for missing in ("nofile", "nofile.jsonl", "./nofile"):
        assert main([*argv, "--csqa", missing]) == 2
        error = capsys.readouterr().err
        assert f"--csqa {missing}, but " in error
        assert "[data]" not in error
