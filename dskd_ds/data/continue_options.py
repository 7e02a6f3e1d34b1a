"""The options of `dskd data continue`. Importing this loads neither torch nor transformers."""

from __future__ import annotations

import argparse
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec
from dskd_ds.spec.recipe import ALL_SETS, QuestionSetSpec, RecipeSpec


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `dskd data continue`, or of the ranks that it launches."""
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE.jsonl",
        help="where to write; {epoch} in it stands for the epoch's number",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="PATH",
        help="files of conversations to continue, perhaps with {epoch} in their names"
        " (default: the spec's [data] train)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        help="draw continuations and cuts anew for each of N epochs, a file each"
        " (default: [recipe] epochs, or 1)",
        metavar="N",
    )
    parser.add_argument(
        "--new-tokens",
        type=int,
        metavar="N",
        help="longest continuation, for every set (default: [recipe] new_tokens, or 64)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        help="0: the likeliest token each time; 1: drawn from the teacher's distribution"
        " (default: [recipe] temperature, or 0)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="draw from the likeliest tokens that together have this probability"
        " (default: [recipe] top_p, or 1)",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="keep continuations whole instead of cutting each at a random point",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="conversations at a time (default: [recipe] batch_conversations, or 16);"
        " part of the result",
    )


def recipe_of(args: argparse.Namespace, spec: RunSpec) -> RecipeSpec:
    """Return the spec's recipe, changed by parsed options. Raises InputError for a wrong option."""
    _check_ranges(args)
    recipe = spec.recipe or RecipeSpec()
    changes: dict[str, Any] = {
        "epochs": args.epochs,
        "new_tokens": args.new_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "cut": "none" if args.whole else None,
        "batch_conversations": args.batch,
    }
    if args.new_tokens is not None:  # for every set, whatever the recipe says
        changes |= dict.fromkeys(ALL_SETS, QuestionSetSpec())
    given = {key: value for key, value in changes.items() if value is not None}
    recipe = recipe.model_copy(update=given)
    if recipe.top_p < 1 and recipe.temperature == 0:
        raise InputError(
            f"--top-p {recipe.top_p}: it has no effect, because temperature 0 always takes the"
            " likeliest token.\n  give --temperature above 0, or no --top-p."
        )
    return recipe


def _check_ranges(args: argparse.Namespace) -> None:
    """Raise InputError if an option is out of range."""
    for name in ("epochs", "new_tokens", "batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: must be at least 1.\n"
                "  give a positive number."
            )
    if args.temperature is not None and args.temperature < 0:
        raise InputError(
            f"--temperature {args.temperature}: must not be negative.\n"
            "  give 0 for the likeliest tokens, or a larger value."
        )
    if args.top_p is not None and not 0 < args.top_p <= 1:
        raise InputError(
            f"--top-p {args.top_p}: must be above 0 and at most 1.\n"
            "  give a probability, or no --top-p for all tokens."
        )


def argv_of(args: argparse.Namespace) -> list[str]:
    """Return the options as arguments of a command line."""
    inputs = [word for path in args.input for word in ("--input", path)]
    argv = ["--output", str(args.output), *inputs]
    for name in ("epochs", "new_tokens", "temperature", "top_p", "batch"):
        value = getattr(args, name)
        if value is not None:
            argv += [f"--{name.replace('_', '-')}", str(value)]
    return [*argv, *(["--whole"] if args.whole else [])]
