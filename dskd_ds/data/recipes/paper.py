"""Writes the paper's mixture of five question sets as few-shot conversations, for a chat source.

The shares are from docs/method.md, "The paper's student". The shots of a conversation are other
questions of the same set (and of the same topic, if the set has topics) with their answers. Its
last question is answered too; `dskd data continue` replaces that answer by the teacher's own.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dskd_ds.data.documents import load_source
from dskd_ds.data.recipes.question_sets import SETS, MalformedRowError, Question, QuestionSet
from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_text

Malformed = dict[str, list[int]]
"""The rows, counted from 1, that were left out for each reason."""


@dataclass(frozen=True)
class SetCount:
    """How many questions of a set were read, written and left out."""

    num_questions: int
    num_chats: int
    num_malformed: int
    """Rows left out."""


def write_mixture(
    output: Path, sources: Mapping[str, str | None], seed: int
) -> dict[str, SetCount]:
    """Write the mixture of some sets, whole or not at all.

    sources: for names of SETS a hub name or local file; None: the default hub name of the set.
    Raises InputError if a set cannot be read or has too few questions for its shots.
    """
    chats: list[dict[str, Any]] = []
    counts = {}
    for name, path in sources.items():
        wanted = SETS[name]
        source = wanted.source if path is None else wanted.source.model_copy(update={"path": path})
        rows = load_source(source, f"--{name}", stream=False)
        questions, malformed = read_questions(
            tqdm(rows, desc=f"reading {wanted.title}", unit="rows"), wanted
        )
        if len(questions) <= wanted.num_shots:
            raise InputError(
                f"--{name} {source.path}: {len(questions)} questions are too few for"
                f" {wanted.num_shots}-shot conversations;"
                f" left out: {_reasons(malformed)}.\n  {_documentation(wanted)}"
            )
        set_chats = few_shot_chats(
            name, questions, share=wanted.share, num_shots=wanted.num_shots, seed=seed
        )
        num_malformed = sum(len(row_numbers) for row_numbers in malformed.values())
        counts[name] = SetCount(len(questions), len(set_chats), num_malformed)
        if malformed:
            print(f"--{name} {source.path}: left out: {_reasons(malformed)}.", file=sys.stderr)
        chats += set_chats
    # In the order of the sets, a block would hold questions of one set only.
    random.Random(f"{seed} order").shuffle(chats)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, "".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats))
    return counts


def read_questions(
    rows: Iterable[dict[str, Any]], wanted: QuestionSet
) -> tuple[list[Question], Malformed]:
    """Return the questions of a set, and which rows were left out."""
    questions: list[Question] = []
    malformed: Malformed = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        try:
            questions.append(wanted.read(row))
        except MalformedRowError as error:
            malformed[str(error)].append(number)
    return questions, malformed


def few_shot_chats(
    name: str, questions: list[Question], share: float, num_shots: int, seed: int
) -> list[dict[str, Any]]:
    """Return conversations for a share of the questions, each after `num_shots` others.

    The draws depend on the seed, the set and the question only.
    """
    by_topic: dict[str, list[int]] = defaultdict(list)
    for number, question in enumerate(questions):
        by_topic[question.topic].append(number)
    chats = []
    num_chats = round(share * len(questions))
    chosen = random.Random(f"{seed} {name}").sample(range(len(questions)), num_chats)
    for number in sorted(chosen):
        pool = by_topic[questions[number].topic]
        if len(pool) <= num_shots:  # too few others in its topic
            pool = list(range(len(questions)))
        # One more than the shots, because the question itself may be among them.
        drawn = random.Random(f"{seed} {name} {number}").sample(pool, num_shots + 1)
        shots = [other for other in drawn if other != number][:num_shots]
        messages: list[dict[str, str]] = []
        for shown in (*shots, number):
            messages.append({"role": "user", "content": questions[shown].text})
            messages.append({"role": "assistant", "content": questions[shown].answer})
        chats.append({"title": f"{name} {number}", "messages": messages})
    return chats


def _reasons(malformed: Malformed) -> str:
    """Return the reasons with their numbers of rows, for a message."""
    if not malformed:
        return "none"
    return "; ".join(
        f"{len(rows)} rows (the first is row {rows[0]}): {reason}"
        for reason, rows in malformed.items()
    )


def _documentation(wanted: QuestionSet) -> str:
    """Return a line about the columns of a set's rows, from the docstring of its reader."""
    return f"columns it should have: {' '.join((wanted.read.__doc__ or '').split())}"
