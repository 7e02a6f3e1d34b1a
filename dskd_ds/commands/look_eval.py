"""`dskd senses eval`: measures senses without training."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import Commands, spec_command, spec_of
from dskd_ds.spec import RunSpec

PARTS = ("context", "separation", "similarity", "polysemy")
"""What `dskd senses eval` can measure."""

EVAL_TEXT = """\
Measure senses without training, in order to choose a layer, a number of senses or a dictionary.

  context     Word in context: two of WordNet's example sentences use a word in one meaning or in
              two. Do the states, and the nearest senses in a dictionary, show which? (AUC: 0.5 is
              chance.) Every word gives as many pairs of one kind as of the other. One word in
              three is used for tuning and is never scored.
  separation  Are the senses of synonyms nearer than those of antonyms and of unrelated words?
              (This part needs no teacher.)
  similarity  Do distances agree with people's ratings of word pairs? (SimLex-999, WordSim-353;
              they are fetched once with pip.)
  polysemy    Do words with more meanings in WordNet have more senses? (No teacher.)

Layer 0 is the embeddings; -1 is the state after the final norm, which the head reads and the loss
uses."""

EVAL_EPILOG = """\
examples:
  dskd senses eval my.toml
      measures the spec's dictionary and four layers, all parts
  dskd senses eval my.toml --dictionary k10=runs/a/senses --dictionary k5=runs/b/senses \\
      --only context
  dskd senses eval my.toml --layers 0,5,10,15,20,25,-1 --json > eval.json"""


def add_eval_command(senses: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd senses eval`."""
    command = spec_command(
        senses,
        "eval",
        "measure senses: word in context, synonyms against antonyms, word similarity",
        description=EVAL_TEXT,
    )
    command.epilog = EVAL_EPILOG
    command.add_argument(
        "--layers",
        metavar="LIST",
        help="layers whose states are compared, for example 0,10,-1 (default: four layers)",
    )
    command.add_argument(
        "--dictionary",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a dictionary to measure; may be repeated: several are compared on the same pairs"
        " (default: the spec's)",
    )
    command.add_argument(
        "--only",
        action="append",
        default=[],
        choices=PARTS,
        help="measure only this part; may be repeated (default: all parts)",
    )
    command.add_argument(
        "--pairs",
        type=int,
        default=1500,
        metavar="N",
        help="maximum number of word-in-context pairs (default 1500: two minutes on one core with"
        " SmolLM2)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=run_eval)


def run_eval(args: argparse.Namespace) -> int:
    """Measure, print the tables and how to read them, or JSON; return the exit code."""
    from dskd_ds.models.named import NamedModel
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.runtime.devices import use_threads
    from dskd_ds.senses.dictionary.dictionary import open_own
    from dskd_ds.senses.intrinsic.evaluate import evaluate_senses
    from dskd_ds.senses.intrinsic.table import READING, render

    spec, layers = spec_of(args), _layers(args.layers)
    teacher = NamedModel.of_teacher(spec.teacher)
    paths = _named_paths(args.dictionary, spec)
    # A wrong dictionary is reported before the teacher is loaded.
    dictionaries = {name: open_own(path, teacher) for name, path in paths.items()}
    quiet_progress()
    use_threads(spec.topology.threads_per_rank)
    result = evaluate_senses(
        spec,
        teacher,
        dictionaries,
        layers=layers,
        parts=args.only or PARTS,
        max_pairs=args.pairs,
    )
    if args.json:
        print(json.dumps(without_nan(result.as_json()), indent=1), end="")
    else:
        print(f"{render(result)}\n\n{READING}", end="")
    return 0


def _layers(text: str | None) -> list[int]:
    """Parse --layers; empty if it is not given. Raises InputError."""
    if not text:
        return []
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise InputError(
            f"--layers {text} is invalid: it must be a list of integers.\n"
            "  example: --layers 0,10,20,-1"
        ) from None


def _named_paths(arguments: list[str], spec: RunSpec) -> dict[str, str]:
    """Parse --dictionary to name -> path; the spec's dictionary by default. Raises InputError."""
    paths: dict[str, str] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator:
            raise InputError(
                f"--dictionary {argument} is invalid: it must be of the form NAME=PATH.\n"
                "  example: --dictionary k10=runs/mine/senses"
            )
        paths[name] = path
    return paths or {"senses": spec.senses.dictionary}


def without_nan(value: Any) -> Any:
    """Replace NaN by None in a JSON value: JSON has no NaN, and null means "not measured"."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
