"""The prompts, subsets and shots of [recipe] style = "paper", against slow loops."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dskd_ds.commands.cli import main
from dskd_ds.data.recipes.draws import Shots, draw_questions
from dskd_ds.data.recipes.prompts import NO_ANSWER, PIQA_QUESTION, SQUAD_SYSTEM, conversation
from dskd_ds.data.recipes.question_sets import SETS, Question
from dskd_ds.spec.recipe import RecipeSpec
from tests.unit.data.test_recipes import ROWS, write_sets

PAPER = RecipeSpec(style="paper")
CHOICES = [(name, row) for name in ("csqa", "piqa", "arc", "mmlu") for row, _ in ROWS[name]]


def slow_user_text(name: str, row: dict[str, Any]) -> str:
    """The user's turn of a published row, written from the description of the authors' prompts."""
    row = row.get("train", row)
    if name == "piqa":
        return f"{row['goal']}\n{PIQA_QUESTION}\n0. {row['sol1']}\n1. {row['sol2']}\n"
    if name == "mmlu":
        texts = row.get("choices") or [row[f"answer_{letter}"] for letter in "abcd"]
        pairs = list(zip("ABCD", texts, strict=True))
    else:
        inner = row["question"] if isinstance(row["question"], dict) else row
        choices = inner["choices"]
        if isinstance(choices, dict):
            pairs = list(zip(choices["label"], choices["text"], strict=True))
        else:
            pairs = [(choice["label"], choice["text"]) for choice in choices]
    stem = row["question"]["stem"] if isinstance(row["question"], dict) else row["question"]
    return stem + "\n" + "".join(f"{label}. {text}\n" for label, text in sorted(pairs))


def slow_label(name: str, row: dict[str, Any]) -> str:
    row = row.get("train", row)
    if name == "piqa":
        return str(row["label"])
    if name == "mmlu":
        return row.get("correct_answer") or "ABCD"[row["answer"]]
    return str(row["answerKey"])


@pytest.mark.parametrize(("name", "row"), CHOICES)
def test_choice_turns_hold_question_options_and_the_label_alone(
    name: str, row: dict[str, Any]
) -> None:
    question = SETS[name].read(row)
    system, *turns = conversation(PAPER, name, [question] * 2, question)
    text, label = slow_user_text(name, row), slow_label(name, row)
    user, assistant = {"role": "user", "content": text}, {"role": "assistant", "content": label}
    assert turns == [user, assistant] * 3
    labels = sorted(line.split(". ")[0] for line in text.splitlines() if ". " in line[:3])
    assert system["role"] == "system"
    assert "letter" in system["content"]
    assert system["content"].endswith(f"{', '.join(labels)}.")
    assert ("common sense" in system["content"]) == (name in ("csqa", "piqa"))
    assert ("science" in system["content"]) == (name == "arc")


def test_options_are_sorted_by_label() -> None:
    row = dict(ROWS["csqa"][0][0])
    row["choices"] = {"label": list("DBACE"), "text": ["4", "2", "1", "3", "5"]}
    user = conversation(PAPER, "csqa", [], SETS["csqa"].read(row))[1]["content"]
    assert user.splitlines()[1:] == ["A. 1", "B. 2", "C. 3", "D. 4", "E. 5"]


def about(context: str, text: str, answer: str, article: str = "") -> Question:
    return Question(text, (), answer, context=context, article=article)


def test_squad_has_the_context_once_and_refuses_with_two_words() -> None:
    shot, question = about("Cold rivers.", "Which?", "rivers"), about("Cold rivers.", "Why?", "")
    system, *turns = conversation(PAPER, "squad", [shot], question)
    assert system == {"role": "system", "content": SQUAD_SYSTEM["assistant"]}
    assert turns == [
        {"role": "user", "content": "Context: Cold rivers.\n\nQuestion: Which?"},
        {"role": "assistant", "content": "rivers"},
        {"role": "user", "content": "Question: Why?"},
        {"role": "assistant", "content": "No answer"},
    ]
    alone = conversation(PAPER, "squad", [], question)[1:]
    assert alone[0]["content"] == "Context: Cold rivers.\n\nQuestion: Why?"
    assert len(alone) == 2
    extract = PAPER.model_copy(update={"squad_system": "extract"})
    assert conversation(extract, "squad", [], question)[0]["content"] == SQUAD_SYSTEM["extract"]
    assert all(f'"{NO_ANSWER}"' in text for text in SQUAD_SYSTEM.values())


def test_the_instruction_can_stand_elsewhere() -> None:
    question = about("Text.", "Which?", "a")
    in_user = PAPER.model_copy(update={"system_turn": "first_user"})
    without = PAPER.model_copy(update={"system_turn": "none"})
    user, assistant = conversation(without, "squad", [], question)
    joined = {"role": "user", "content": f"{SQUAD_SYSTEM['assistant']}\n\n{user['content']}"}
    assert conversation(in_user, "squad", [], question) == [joined, assistant]


def test_the_subsets_are_the_authors() -> None:
    """A quarter of the total, split in proportion and rounded down, by NumPy with four seeds."""
    sizes = {"csqa": 97, "piqa": 161, "arc": 11, "mmlu": 998}
    sets = {name: [about("", str(i), "A") for i in range(size)] for name, size in sizes.items()}
    drawn = draw_questions(PAPER, sets, seed=7)
    total = sum(sizes.values())
    for seed, (name, size) in zip((42, 142, 242, 342), sizes.items(), strict=True):
        count = int(0.25 * total) * size // total
        chosen = np.random.default_rng(seed).choice(size, size=count, replace=False)
        assert drawn[name] == sorted(chosen)
    assert {name: len(indices) for name, indices in drawn.items()} == {
        "csqa": 24,
        "piqa": 40,
        "arc": 2,
        "mmlu": 248,
    }
    assert draw_questions(PAPER, sets, seed=8) == drawn
    del sets["csqa"]
    assert set(draw_questions(PAPER, sets, seed=7)["arc"]) == set(drawn["arc"])


@pytest.mark.parametrize(("unit", "size"), [("question", 1), ("context", 4), ("article", 20)])
def test_squad_is_drawn_in_whole_units(unit: str, size: int) -> None:
    questions = [about(f"context {i // 4}", str(i), "a", f"article {i // 20}") for i in range(400)]
    recipe = PAPER.model_copy(update={"squad_unit": unit})
    chosen = draw_questions(recipe, {"squad": questions}, seed=0)["squad"]
    assert 120 <= len(chosen) < 120 + size
    assert set(Counter(index // size for index in chosen).values()) == {size}
    assert draw_questions(recipe, {"squad": questions}, seed=1)["squad"] != chosen


def test_shots_come_from_the_same_context_or_topic() -> None:
    answers = ["x", "", "y", "", "z", ""]
    squad = [about(f"c{i // 3}", f"q{i}", answer) for i, answer in enumerate(answers)]
    shots = Shots(PAPER, "squad", squad, drawn=[0, 1, 2, 3])
    for index in range(6):
        seen = set()
        for seed in range(40):
            seen |= {shot.text for shot in shots.draw(index, 1, seed, 0)}
        # Question 4 was not drawn, so questions 3 and 5 have no shot.
        others = {f"q{i}" for i in (0, 2) if index < 3 and i != index}
        assert seen == others
    from_all = PAPER.model_copy(update={"squad_shots_from": "all"})
    assert [q.text for q in Shots(from_all, "squad", squad, [3]).draw(3, 1, 0, 0)] == ["q4"]

    topics = ["law"] * 8 + [""] * 12
    mmlu = [Question(str(i), (), "A", topic=topic) for i, topic in enumerate(topics)]
    shots = Shots(PAPER, "mmlu", mmlu, drawn=[0])
    of_law, without = set(), set()
    for seed in range(60):
        drawn = shots.draw(0, 5, seed, 0)
        assert len({q.text for q in drawn}) == 5
        of_law |= {int(q.text) for q in drawn}
        without |= {int(q.text) for q in shots.draw(19, 5, seed, 0)}
    assert of_law == set(range(1, 8))
    assert without == set(range(19))  # a question without a topic has the whole set


def read_chats(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_epoch_has_the_same_questions_and_other_shots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = write_sets(tmp_path, 40)
    argv = ["data", "paper", *options, "--style", "paper", "--epochs", "2"]
    assert main([*argv, "--output", str(tmp_path / "chats-{epoch}.jsonl")]) == 0
    numbered = "10 of 10 chats of ARC-Challenge have digits as labels"
    assert numbered in capsys.readouterr().out
    first, second = (read_chats(tmp_path / f"chats-{epoch}.jsonl") for epoch in (0, 1))
    assert [chat["id"] for chat in first] == [chat["id"] for chat in second]
    assert {chat["epoch"] for chat in first} | {chat["epoch"] for chat in second} == {0, 1}
    for before, after in zip(first, second, strict=True):
        assert before["messages"][-1] == after["messages"][-1]
        if before["set"] != "squad":
            assert before["messages"][-2] == after["messages"][-2]
            assert before["messages"] != after["messages"]
    # The first epoch does not depend on the number of epochs.
    assert main([*argv[:-1], "1", "--output", str(tmp_path / "one.jsonl")]) == 0
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "chats-0.jsonl").read_bytes()
    assert main([*argv, "--all", "--output", str(tmp_path / "all-{epoch}.jsonl")]) == 0
    assert Counter(chat["set"] for chat in read_chats(tmp_path / "all-0.jsonl")) == dict.fromkeys(
        SETS, 40
    )


def test_several_epochs_need_several_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["data", "paper", "--output", str(tmp_path / "chats.jsonl"), "--epochs", "2"]
    assert main([*argv, *write_sets(tmp_path, 40)]) == 2
    assert "put {epoch} into the name" in capsys.readouterr().err


def test_too_many_unusable_rows_stop_the_command(
    tmp_path: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = write_sets(tmp_path, 40)  # one malformed row of 41
    argv = ["data", "paper", str(tiny_recipe), "--output", str(tmp_path / "out.jsonl"), *options]
    assert main([*argv, "--set", "data.max_lost_fraction=0.01"]) == 2
    error = capsys.readouterr().err
    assert "1 of 41 rows cannot be used, more than [data] max_lost_fraction = 0.01" in error
    assert main([*argv, "--set", "data.max_lost_fraction=0.03"]) == 0
    chats = read_chats(tmp_path / "out.jsonl")
    assert {chat["messages"][0]["role"] for chat in chats} == {"system"}
