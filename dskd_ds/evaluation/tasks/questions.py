"""Reads a task's questions, and draws the shots that are shown before each.

A file DATA_DIR/TASK.jsonl (or .parquet, .json) takes the place of the hub, and
DATA_DIR/TASK.shots.jsonl has questions for shots. Without the second file, a file's questions are
split by a hash of their text: 70 % are asked, the others are shots. Columns are those of the hub's
data set.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dskd_ds.data.documents import load_source
from dskd_ds.data.recipes.question_sets import MalformedRowError, Question
from dskd_ds.errors import InputError
from dskd_ds.evaluation.tasks.catalogue import EvalTask
from dskd_ds.spec.data import SourceSpec

SUFFIXES = (".jsonl", ".json", ".parquet")
ASKED_SHARE = 0.7
MAX_LOST_FRACTION = 0.01
"""Share of a file's rows that may be unusable."""


@dataclass(frozen=True)
class AskedQuestion:
    """A question, and the shots that are shown before it."""

    id: str
    """Digest of the question's text and options."""
    question: Question
    shots: tuple[Question, ...]
    answers: tuple[str, ...]
    """Every right answer: several for SQuAD 2.0, none if the context has no answer."""


@dataclass(frozen=True)
class ReadQuestion:
    """A row of a question set."""

    row: dict[str, Any]
    """The row as it was read."""
    question: Question
    answers: tuple[str, ...]
    """Every right answer, see AskedQuestion."""

    @property
    def id(self) -> str:
        """Digest of the question's text and options."""
        shown = repr((self.question.context, self.question.text, self.question.options))
        return hashlib.blake2b(shown.encode(), digest_size=8).hexdigest()

    @property
    def place(self) -> float:
        """A number in [0, 1) that depends on the id alone, to split a set by."""
        return int(self.id, 16) / 2**64


def read_task(
    task: EvalTask, data_dir: str | None, limit: int | None, seed: int
) -> list[AskedQuestion]:
    """Return the questions of a task with their shots, in the order of their ids.

    limit: ask only this many, the first by id. seed: of the draw of shots, which also depends on
    the question alone. Raises InputError if the data cannot be read.
    """
    own_file = _file_of(task.name, data_dir)
    asked = read_questions_of(task, data_dir)
    shots_file = _file_of(f"{task.name}.shots", data_dir)
    if shots_file:
        pool = read_source(task, SourceSpec(path=str(shots_file)))
    elif own_file is None and task.shots is not None:
        pool = read_source(task, task.shots)
    elif task.has_choices:
        pool = [read for read in asked if not _is_asked(read)]
        asked = [read for read in asked if _is_asked(read)]
    else:
        pool = asked  # a shot of the same context: other questions of the task itself
    asked.sort(key=lambda read: read.id)
    chosen = asked[:limit]
    draw = ShotDraw(task, pool, seed)
    return [AskedQuestion(read.id, read.question, draw(read), read.answers) for read in chosen]


def read_questions_of(task: EvalTask, data_dir: str | None) -> list[ReadQuestion]:
    """Return all questions of a task, from its file in a folder or from the hub.

    Raises InputError if the data cannot be read.
    """
    own_file = _file_of(task.name, data_dir)
    source = SourceSpec(path=str(own_file)) if own_file else task.source
    if source is None:
        raise InputError(
            f"--tasks {task.name}: this task is read from a file.\n"
            f"  give --data-dir DIR with DIR/{task.name}.jsonl; {task.read.__doc__}"
        )
    return read_source(task, source)


def _file_of(name: str, data_dir: str | None) -> Path | None:
    """Return the file of a task in the user's folder, or None if there is none."""
    if data_dir is None:
        return None
    for suffix in SUFFIXES:
        path = Path(data_dir) / f"{name}{suffix}"
        if path.is_file():
            return path
    return None


def read_source(task: EvalTask, source: SourceSpec) -> list[ReadQuestion]:
    """Return the questions of a source. Raises InputError if too many rows are unusable."""
    read: dict[str, ReadQuestion] = {}
    lost: list[str] = []
    num_rows = 0
    for number, row in enumerate(load_source(source, f"--tasks {task.name}", stream=False), 1):
        num_rows = number
        try:
            question = task.read(row)
        except MalformedRowError as error:
            lost.append(f"row {number}: {error}")
            continue
        found = ReadQuestion(row, question, _answers(task, row, question))
        read.setdefault(found.id, found)  # a question that comes twice is asked once
    if not read or len(lost) > MAX_LOST_FRACTION * num_rows:
        raise InputError(
            f"{source.path}: {len(lost)} of {num_rows} rows are not questions of {task.name}"
            f" ({lost[0] if lost else 'there is no row'}).\n  columns: {task.read.__doc__}"
        )
    return list(read.values())


def _answers(task: EvalTask, row: dict[str, Any], question: Question) -> tuple[str, ...]:
    if task.has_choices:
        return (question.answer,)
    return tuple(dict.fromkeys(row["answers"]["text"]))


def _is_asked(read: ReadQuestion) -> bool:
    """Whether a question is asked; the others are shots."""
    return read.place < ASKED_SHARE


class ShotDraw:
    """Draws the shots of one question: of its topic or context, keyed by (seed, question)."""

    def __init__(self, task: EvalTask, pool: Sequence[ReadQuestion], seed: int) -> None:
        self._task, self._seed = task, seed
        self._all = [read for read in pool if task.has_choices or read.answers]
        self._by_key: dict[str, list[ReadQuestion]] = defaultdict(list)
        for read in self._all:
            self._by_key[self._key(read)].append(read)

    def _key(self, read: ReadQuestion) -> str:
        return read.question.topic if self._task.has_choices else read.question.context

    def __call__(self, asked: ReadQuestion) -> tuple[Question, ...]:
        own = [read for read in self._by_key[self._key(asked)] if read.id != asked.id]
        num_shots = self._task.num_shots
        generator = random.Random(f"{self._seed} {self._task.name} {asked.id}")
        drawn = generator.sample(own, min(num_shots, len(own)))
        if self._task.has_choices and len(drawn) < num_shots:
            # Its topic has too few. Shots of SQuAD 2.0 are of the same context, or there is none.
            taken = {asked.id, *(read.id for read in drawn)}
            others = [read for read in self._all if read.id not in taken]
            drawn += generator.sample(others, min(num_shots - len(drawn), len(others)))
        return tuple(read.question for read in drawn)
