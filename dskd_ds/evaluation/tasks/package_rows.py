"""Readers of the question sets in the PyPI package `evals`: rows of rendered chat prompts."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

from dskd_ds.data.recipes.question_sets import MalformedRowError, Option, Question

OPTION = re.compile(r"^\s*([A-Da-d])\s*[:.)]\s*(.+?)\s*$")
"""A line with a label and an option: ` A: increases`, `a) Hyperplasia`."""


def read_quartz(row: dict[str, Any]) -> Question:
    """evals/registry/data/quartz: input [{role, content}], ideal (A or B); the last content has the
    question and the lines `A: ...`, `B: ...`."""
    return _lettered(row)


def read_logiqa(row: dict[str, Any]) -> Question:
    """evals/registry/data/logiqa: as QuaRTz, with a passage and the lines `A. ...` to `D. ...`."""
    return _lettered(row)


def read_medmcqa(row: dict[str, Any]) -> Question:
    """evals/registry/data/medmcqa: as QuaRTz, with the lines `a) ...` to `d) ...`; ideal is the
    whole line."""
    return _lettered(row)


def _lettered(row: dict[str, Any]) -> Question:
    """Return the question of a row. Raises MalformedRowError."""
    messages = row.get("input")
    if not isinstance(messages, list) or not messages:
        raise MalformedRowError("no input")
    lines = str(messages[-1].get("content", "")).strip().splitlines()
    found = [(number, OPTION.match(line)) for number, line in enumerate(lines)]
    options = [(number, match) for number, match in found if match]
    # A passage can have a line that looks like an option: the last A begins them.
    starts = [place for place, (_, match) in enumerate(options) if match[1].upper() == "A"]
    if not starts:
        raise MalformedRowError("no options")
    options = options[starts[-1] :]
    labels = [match[1].upper() for _, match in options]
    if labels != list(string.ascii_uppercase[: len(labels)]) or len(labels) < 2:
        raise MalformedRowError("the options are not A, B, ...")
    text = "\n".join(lines[: options[0][0]]).strip()
    if not text:
        raise MalformedRowError("no question before the options")
    pairs = zip(labels, options, strict=True)
    return Question(
        text=text,
        options=tuple(Option(label, match[2]) for label, (_, match) in pairs),
        answer=_answer(row, labels),
        topic=_topic(text),
    )


def _answer(row: dict[str, Any], labels: Sequence[str]) -> str:
    ideal = row.get("ideal")
    first = ideal[0] if isinstance(ideal, list) and ideal else ideal
    letter = str(first or "").strip()[:1].upper()
    if letter not in labels:
        raise MalformedRowError("ideal is none of the options")
    return letter


def _topic(text: str) -> str:
    """Return MedMCQA's subject, the first line; other sets have none."""
    first = text.splitlines()[0]
    return first.removeprefix("Subject: ") if first.startswith("Subject: ") else ""
