"""Draws the questions of a mixture and the shots of each conversation.

Every draw is keyed: the questions by (seed, set), the shots by (seed, epoch, set, question). So an
epoch can be made again, alone and in any order.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from dskd_ds.data.recipes.question_sets import CHOICE_SETS, Question
from dskd_ds.spec.recipe import RecipeSpec

Questions = Sequence[Question]
Drawn = dict[str, list[int]]
"""Set -> indices of the drawn questions, ascending."""
SEED_STEP = 100
"""Distance between the authors' subset seeds: 42, 142, 242, 342."""


def draw_questions(recipe: RecipeSpec, sets: Mapping[str, Questions], seed: int) -> Drawn:
    """Return which questions of each set become conversations; the same for all epochs."""
    if recipe.style == "lettered":
        return {name: _keyed_share(recipe, name, sets[name], seed) for name in sets}
    drawn = _joint_share(recipe, sets)
    if "squad" in sets:
        drawn["squad"] = _share_of_units(recipe, sets["squad"], seed)
    return {name: drawn[name] for name in sets}


def _keyed_share(recipe: RecipeSpec, name: str, questions: Questions, seed: int) -> list[int]:
    share = recipe.squad_share if name == "squad" else recipe.choice_share
    count = round(share * len(questions))
    return sorted(random.Random(f"{seed} {name}").sample(range(len(questions)), count))


def _joint_share(recipe: RecipeSpec, sets: Mapping[str, Questions]) -> Drawn:
    """Return the authors' draw from the multiple-choice sets.

    The share is taken of the total; each set gets its proportion of that number, rounded down, by
    NumPy's default generator. A set keeps its seed if other sets are left out.
    """
    sizes = {name: len(sets[name]) for name in CHOICE_SETS if name in sets}
    total = sum(sizes.values())
    target = int(recipe.choice_share * total)
    drawn = {}
    for position, name in enumerate(CHOICE_SETS):
        if name in sizes:
            generator = np.random.default_rng(recipe.subset_seed + SEED_STEP * position)
            count = target * sizes[name] // total
            chosen = generator.choice(sizes[name], size=count, replace=False)
            drawn[name] = sorted(chosen.tolist())
    return drawn


def _share_of_units(recipe: RecipeSpec, questions: Questions, seed: int) -> list[int]:
    """Return a share of the questions of SQuAD 2.0, as whole units of [recipe] squad_unit.

    Units are taken in a keyed order until the share is reached, so the last one can exceed it.
    """
    units: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        unit = {
            "question": str(index),
            "context": question.context,
            "article": question.article,
        }
        units[unit[recipe.squad_unit]].append(index)
    order = list(units.values())
    random.Random(f"{seed} squad").shuffle(order)
    target = int(recipe.squad_share * len(questions))
    chosen: list[int] = []
    for indices in order:
        if len(chosen) >= target:
            break
        chosen += indices
    return sorted(chosen)


class Shots:
    """Draws the shots of the conversations of one set."""

    def __init__(
        self, recipe: RecipeSpec, name: str, questions: Questions, drawn: Sequence[int]
    ) -> None:
        """drawn: indices of the questions that become conversations."""
        self._name, self._questions = name, questions
        self._of_one_context = recipe.style == "paper" and name == "squad"
        only_drawn = self._of_one_context and recipe.squad_shots_from == "drawn"
        self._pools: dict[str, list[int]] = defaultdict(list)
        for index in drawn if only_drawn else range(len(questions)):
            question = questions[index]
            if not self._of_one_context:
                self._pools[question.topic].append(index)
            elif question.answer:
                self._pools[question.context].append(index)

    def draw(self, index: int, num_shots: int, seed: int, epoch: int) -> list[Question]:
        """Return the shots of a question: never the question itself, nor one of them twice.

        There are fewer than `num_shots` only if all are of one context, which has too few.
        """
        question = self._questions[index]
        key = question.context if self._of_one_context else question.topic
        pool: Sequence[int] = self._pools.get(key, [])
        if not self._of_one_context and (not question.topic or len(pool) <= num_shots):
            # Without a topic, or with too few others in it, any question of the set will do.
            pool = range(len(self._questions))
        # One more than the shots, because the question itself may be among them.
        size = min(num_shots + 1, len(pool))
        generator = random.Random(f"{seed} {self._name} {index}" + (f" {epoch}" if epoch else ""))
        shots = [other for other in generator.sample(pool, size) if other != index]
        return [self._questions[other] for other in shots[:num_shots]]
