"""Splits question sets into training conversations, shots, and test questions, as files.

A hash of the question decides its part, so a question never changes sides, whatever else a set
holds. The folder has

  train.jsonl            conversations for `dskd data continue`; shots come from the shots' part
  heldout.jsonl          the same of the test questions, for held-out perplexity and KL
  test/TASK.jsonl        the test questions, test/TASK.shots.jsonl their shots: for `dskd eval
                         --data-dir FOLDER/test`
  counts.json            how many questions each part of each set has; written last
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dskd_ds.data.chat import ChatFormat
from dskd_ds.data.recipes.prompts import conversation
from dskd_ds.data.recipes.question_sets import Question
from dskd_ds.evaluation.tasks.catalogue import EvalTask
from dskd_ds.evaluation.tasks.documents import render_prompt
from dskd_ds.evaluation.tasks.questions import ReadQuestion, ShotDraw, read_questions_of
from dskd_ds.files.atomic import write_json, write_text
from dskd_ds.files.output import writing_output
from dskd_ds.spec.recipe import RecipeSpec

TRAIN_SHARE, SHOTS_SHARE = 0.6, 0.1
"""Shares of the questions for training and for shots; the rest is the test."""
COUNTS_FILE = "counts.json"


@dataclass(frozen=True)
class QuestionSplit:
    """What the files hold, and how the prompts are made."""

    chat: ChatFormat
    recipe: RecipeSpec
    """Its system_turn is used; the style is always `paper`."""
    max_prompt_tokens: int
    """Shots are dropped until a conversation fits; longer questions are left out."""
    max_shots: int | None
    """Most shots of a conversation; None: the task's own number."""
    train_tokens: int
    """Tokens of training conversations, each set with an equal share as far as it reaches."""
    test_questions: int
    """Most test questions of a set."""
    seed: int


@dataclass(frozen=True)
class SetCounts:
    """How many questions of a set each part has."""

    train: int
    shots: int
    test: int
    train_chats: int
    train_tokens: int
    test_chats: int
    too_long: int
    """Questions that were left out because they are too long without shots."""


def write_question_files(
    folder: Path, split: QuestionSplit, tasks: Sequence[EvalTask], data_dir: str | None
) -> dict[str, SetCounts]:
    """Write the files of all tasks; returns the counts by task. Raises InputError.

    data_dir: folder of the questions, as of `dskd eval --data-dir`.
    """
    train: list[dict[str, Any]] = []
    heldout: list[dict[str, Any]] = []
    counts: dict[str, SetCounts] = {}
    for task in tasks:
        parts = _Parts.of(read_questions_of(task, data_dir))
        chats = _Chats(split, task, parts.shots)
        share = split.train_tokens // len(tasks)
        own_train = chats.up_to(_shuffled(parts.train, split.seed), share)
        own_test = chats.first(parts.test, split.test_questions)
        _write_rows(folder / "test" / f"{task.name}.jsonl", [read.row for read, _ in own_test])
        _write_rows(
            folder / "test" / f"{task.name}.shots.jsonl", [read.row for read in parts.shots]
        )
        train += [chat for _, chat in own_train]
        heldout += [chat for _, chat in own_test]
        counts[task.name] = SetCounts(
            train=len(parts.train),
            shots=len(parts.shots),
            test=len(parts.test),
            train_chats=len(own_train),
            train_tokens=sum(chat["tokens"] for _, chat in own_train),
            test_chats=len(own_test),
            too_long=chats.num_too_long,
        )
    # In the order of the sets, a step would hold questions of one set only.
    random.Random(f"{split.seed} order").shuffle(train)
    random.Random(f"{split.seed} order").shuffle(heldout)
    _write_rows(folder / "train.jsonl", train)
    _write_rows(folder / "heldout.jsonl", heldout)
    content = {name: asdict(count) for name, count in counts.items()}
    write_json(folder / COUNTS_FILE, content, indent=1)
    return counts


@dataclass(frozen=True)
class _Parts:
    """The parts of a set, each in the order of the ids."""

    train: list[ReadQuestion]
    shots: list[ReadQuestion]
    test: list[ReadQuestion]

    @staticmethod
    def of(questions: Sequence[ReadQuestion]) -> _Parts:
        """Split by the hash of each question."""
        ordered = sorted(questions, key=lambda read: read.id)
        end_of_shots = TRAIN_SHARE + SHOTS_SHARE
        return _Parts(
            train=[read for read in ordered if read.place < TRAIN_SHARE],
            shots=[read for read in ordered if TRAIN_SHARE <= read.place < end_of_shots],
            test=[read for read in ordered if read.place >= end_of_shots],
        )


def _shuffled(questions: Sequence[ReadQuestion], seed: int) -> list[ReadQuestion]:
    """Return the questions in an order that depends on the seed."""
    order = list(questions)
    random.Random(f"{seed} train").shuffle(order)
    return order


class _Chats:
    """Makes the conversations of one task."""

    def __init__(self, split: QuestionSplit, task: EvalTask, shots: list[ReadQuestion]) -> None:
        if split.max_shots is not None:
            task = replace(task, num_shots=min(task.num_shots, split.max_shots))
        self._split, self._task = split, task
        self._draw = ShotDraw(task, shots, split.seed)
        self.num_too_long = 0

    def up_to(
        self, questions: Sequence[ReadQuestion], max_tokens: int
    ) -> list[tuple[ReadQuestion, dict[str, Any]]]:
        """Return the conversations of the first questions that have at most this many tokens."""
        found: list[tuple[ReadQuestion, dict[str, Any]]] = []
        total = 0
        for read in questions:
            chat = self._chat(read)
            if chat is None:
                continue
            total += chat["tokens"]
            if total > max_tokens:
                break
            found.append((read, chat))
        return found

    def first(
        self, questions: Sequence[ReadQuestion], count: int
    ) -> list[tuple[ReadQuestion, dict[str, Any]]]:
        """Return the conversations of the first `count` questions that are not too long."""
        found: list[tuple[ReadQuestion, dict[str, Any]]] = []
        for read in questions:
            if len(found) == count:
                break
            chat = self._chat(read)
            if chat is not None:
                found.append((read, chat))
        return found

    def _chat(self, read: ReadQuestion) -> dict[str, Any] | None:
        """Return a conversation with as many shots as fit; None, and counted, if none does."""
        shots = self._draw(read)
        for num_dropped in range(len(shots) + 1):
            chat = self._with_shots(read, shots[num_dropped:])
            if chat["tokens"] <= self._split.max_prompt_tokens:
                return chat
        self.num_too_long += 1
        return None

    def _with_shots(self, read: ReadQuestion, shots: Sequence[Question]) -> dict[str, Any]:
        recipe = self._split.recipe.model_copy(update={"style": "paper"})
        messages = conversation(recipe, self._task.prompt_set, shots, read.question)
        chat = self._split.chat
        text = render_prompt(chat, messages)
        name = f"{self._task.name} {read.id}"
        return {
            "id": name,
            "set": self._task.name,
            "title": name,
            "tokens": len(chat.tokenizer(text, add_special_tokens=False)["input_ids"]),
            "messages": messages,
        }


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with writing_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
