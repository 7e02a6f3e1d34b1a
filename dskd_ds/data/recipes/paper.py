"""Writes the paper's mixture of five question sets as few-shot conversations, for a chat source.

The shots of a conversation are other questions of the same set with their answers. Its last
question is answered too; `dskd data continue` replaces that answer by the teacher's own. `[recipe]`
of a run spec chooses shares, wording and the number of epochs; each epoch has the same questions
with other shots, in a file of its own.
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
from dskd_ds.data.epoch_files import check_output, of_epoch
from dskd_ds.data.recipes.draws import Drawn, Shots, draw_questions
from dskd_ds.data.recipes.prompts import conversation
from dskd_ds.data.recipes.question_sets import SETS, MalformedRowError, Question, QuestionSet
from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_text
from dskd_ds.files.output import writing_output
from dskd_ds.spec.data import SourceSpec
from dskd_ds.spec.recipe import RecipeSpec

Malformed = dict[str, list[int]]
"""The rows, counted from 1, that were left out for each reason."""


@dataclass(frozen=True)
class SetCount:
    """How many questions of a set were read, written and left out."""

    num_questions: int
    num_chats: int
    """Conversations per epoch."""
    num_malformed: int
    """Rows left out."""
    mean_shots: float
    """Shots per conversation of the first epoch."""
    num_numbered: int
    """Conversations per epoch whose options have digits as labels."""


def write_mixture(
    output: str,
    recipe: RecipeSpec,
    paths: Mapping[str, str | None],
    seed: int,
    max_lost_fraction: float = 1.0,
) -> dict[str, SetCount]:
    """Write the mixture of the recipe's sets, a file per epoch; each file whole or not at all.

    output: with `{epoch}` in it if the recipe has more than one epoch.
    paths: for names of SETS a hub name or local file that replaces the recipe's; None: no other.
    max_lost_fraction: largest share of a set's rows that may be unusable.
    Raises InputError if a set cannot be read, has too few questions for its shots, or loses more
    rows, or if a file cannot be written.
    """
    check_output(output, recipe.epochs)
    sets: dict[str, list[Question]] = {}
    num_malformed: dict[str, int] = {}
    for name in recipe.sets:
        sets[name], num_malformed[name] = _read_set(
            source_of(recipe, name, paths.get(name)), name, max_lost_fraction
        )
    drawn = draw_questions(recipe, sets, seed)
    num_shots: dict[str, int] = defaultdict(int)
    for epoch in range(recipe.epochs):
        chats = []
        for name in recipe.sets:
            for chat, count in _chats(recipe, name, sets[name], drawn, seed=seed, epoch=epoch):
                chats.append(chat)
                num_shots[name] += count if epoch == 0 else 0
        # In the order of the sets, a block would hold questions of one set only. All epochs have
        # one order.
        random.Random(f"{seed} order").shuffle(chats)
        path = Path(of_epoch(output, epoch))
        with writing_output(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, "".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats))
    return {
        name: SetCount(
            num_questions=len(sets[name]),
            num_chats=len(drawn[name]),
            num_malformed=num_malformed[name],
            mean_shots=num_shots[name] / max(1, len(drawn[name])),
            num_numbered=sum(_is_numbered(sets[name][index]) for index in drawn[name]),
        )
        for name in recipe.sets
    }


def _is_numbered(question: Question) -> bool:
    return any(option.label.isdigit() for option in question.options)


def _read_set(
    source: SourceSpec, name: str, max_lost_fraction: float
) -> tuple[list[Question], int]:
    """Return the questions of a set and the number of rows that were left out.

    Raises InputError.
    """
    wanted = SETS[name]
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
    num_malformed = sum(map(len, malformed.values()))
    if malformed:
        print(f"--{name} {source.path}: left out: {_reasons(malformed)}.", file=sys.stderr)
    num_rows = len(questions) + num_malformed
    if num_malformed > max_lost_fraction * num_rows:
        raise InputError(
            f"--{name} {source.path}: {num_malformed} of {num_rows} rows cannot be used, more than"
            f" [data] max_lost_fraction = {max_lost_fraction} allows;"
            f" left out: {_reasons(malformed)}.\n"
            f"  mend the file, or raise max_lost_fraction. {_documentation(wanted)}"
        )
    return questions, num_malformed


def source_of(recipe: RecipeSpec, name: str, path: str | None) -> SourceSpec:
    """Return where a set is read from. path: a file or hub name that replaces the recipe's."""
    chosen, usual = recipe.set_spec(name), SETS[name].source
    if path is not None:
        return usual.model_copy(update={"path": path})
    if chosen.path is None:
        return usual
    return SourceSpec(path=chosen.path, subset=chosen.subset, split=chosen.split)


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


def _chats(
    recipe: RecipeSpec,
    name: str,
    questions: list[Question],
    drawn: Drawn,
    seed: int,
    epoch: int,
) -> Iterable[tuple[dict[str, Any], int]]:
    """Yield the conversation of each drawn question of a set, and its number of shots."""
    shots = Shots(recipe, name, questions, drawn[name])
    for index in drawn[name]:
        shown = shots.draw(index, SETS[name].num_shots, seed, epoch)
        chat = {
            "id": f"{name} {index}",
            "set": name,
            "epoch": epoch,
            "title": f"{name} {index}",
            "messages": conversation(recipe, name, shown, questions[index]),
        }
        yield chat, len(shown)


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
