"""Rules about [recipe], one function per rule."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.problems import Problem
from dskd_ds.spec.recipe import ALL_SETS, RecipeSpec
from dskd_ds.spec.sections import RunSections

PAPER_STYLE_KEYS = (
    "squad_unit",
    "squad_shots_from",
    "subset_seed",
    "system_turn",
    "squad_system",
)


def recipe_keys_have_an_effect(spec: RunSections) -> Iterator[Problem]:
    """Keys that only style = "paper" reads are given only with it."""
    recipe = spec.recipe
    if recipe is None or recipe.style == "paper":
        return
    for key in PAPER_STYLE_KEYS:
        value = getattr(recipe, key)
        if value != RecipeSpec.model_fields[key].default:
            yield Problem(
                key=f"recipe.{key}",
                value=value,
                reason=f'it has no effect with style = "{recipe.style}"',
                way_out=f'set [recipe] style = "paper", or remove {key}',
            )


def top_p_needs_draws(spec: RunSections) -> Iterator[Problem]:
    """The likeliest token is the same for every top_p."""
    recipe = spec.recipe
    if recipe is not None and recipe.top_p < 1 and recipe.temperature == 0:
        yield Problem(
            key="recipe.top_p",
            value=recipe.top_p,
            reason="temperature = 0 always takes the likeliest token",
            way_out="set [recipe] temperature above 0, or remove top_p",
        )


def set_sources_are_whole(spec: RunSections) -> Iterator[Problem]:
    """Subset and split belong to a path; without one the set's usual source has its own."""
    if spec.recipe is None:
        return
    for name in ALL_SETS:
        chosen = spec.recipe.set_spec(name)
        if chosen.path is None and (chosen.subset is not None or chosen.split != "train"):
            yield Problem(
                key=f"recipe.{name}.path",
                value=None,
                reason="subset or split is given, and they belong to a path",
                way_out=f"give [recipe.{name}] path, or remove subset and split",
            )


RECIPE_RULES = (recipe_keys_have_an_effect, top_p_needs_draws, set_sources_are_whole)
