"""`dskd senses show | map | projector | stats | eval`: look at a dictionary, and measure it."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from dskd_ds.command_line import Commands, spec_command, spec_of
from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec

PARTS = ("context", "separation", "similarity")
"""What `eval` measures."""

EVAL_TEXT = """\
Measure senses without training anything, to choose a layer, a number of senses or a dictionary with evidence.

  context     word in context: WordNet's example sentences show a word in one meaning or in two. Do states, and the nearest senses
              in a dictionary, tell which? (AUC: 0.5 is guessing.) Every word gives as many pairs of the one kind as of the other;
              one word in three serves for tuning and is never scored.
  separation  are the senses of synonyms nearer than those of antonyms and of unrelated words? (needs no teacher)
  similarity  do distances agree with people's ratings of word pairs? (SimLex-999, WordSim-353; fetched with pip once)

Layer 0 is the embeddings, -1 the state after the final norm, which the head reads and the loss works on."""

EVAL_EPILOG = """\
examples:
  dskd senses eval my.toml                                          the spec's dictionary, four layers, all three parts
  dskd senses eval my.toml --dictionary k10=runs/a/senses --dictionary k5=runs/b/senses --only context
  dskd senses eval my.toml --layers 0,5,10,15,20,25,-1 --json > eval.json"""


def add_look_commands(senses: Commands[argparse.ArgumentParser]) -> None:
    """Register them."""
    _add_eval(senses)


def _add_eval(senses: Commands[argparse.ArgumentParser]) -> None:
    command = spec_command(senses, "eval", "measure senses: word in context, synonyms against antonyms, word similarity")
    command.description, command.epilog = EVAL_TEXT, EVAL_EPILOG
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("--layers", default="0,10,20,-1", metavar="LIST", help="layers whose states are compared (default 0,10,20,-1)")
    command.add_argument("--dictionary", action="append", default=[], metavar="NAME=PATH",
                         help="a dictionary to measure; several are compared on the same pairs (default: the spec's)")
    command.add_argument("--only", action="append", default=[], choices=PARTS, help="measure this part; may be repeated (default: all)")
    command.add_argument("--pairs", type=int, default=1500, metavar="N",
                         help="at most this many word-in-context pairs (default 1500: two minutes on a core with SmolLM2)")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=run_eval)


def run_eval(args: argparse.Namespace) -> int:
    """Measure, print tables and how to read them."""
    from dskd_ds.compute import use_threads
    from dskd_ds.observe.console import quiet_progress
    from dskd_ds.sense.intrinsic.evaluate import evaluate_senses
    from dskd_ds.sense.intrinsic.table import READING, render

    spec, layers = spec_of(args), _layers(args.layers)
    dictionaries = {name: _open(spec, path) for name, path in _named_paths(args.dictionary, spec).items()}
    quiet_progress()
    use_threads(spec.topology.threads_per_rank)
    result = evaluate_senses(spec, dictionaries, layers, args.only or PARTS, args.pairs)
    print(json.dumps(_without_nan(result), indent=1) if args.json else f"{render(result)}\n\n{READING}", end="")
    return 0


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--layers {text}: this is no list of layers.\n  example: --layers 0,10,20,-1") from None


def _named_paths(given: list[str], spec: RunSpec) -> dict[str, str]:
    if wrong := [item for item in given if "=" not in item]:
        raise InputError(f"--dictionary {wrong[0]}: this is not of the form NAME=PATH.\n  example: --dictionary k10=runs/mine/senses")
    return dict(item.split("=", 1) for item in given) or {"senses": spec.senses.dictionary}


def _open(spec: RunSpec, folder: str | Path) -> Any:
    """The dictionary, if it is of the spec's teacher. Raises InputError."""
    from dskd_ds.sense.dictionary import check_belongs, open_dictionary
    from dskd_ds.teacher.checkpoint import load_tokenizer, model_fingerprint, resolve_model, tokenizer_fingerprint

    teacher = resolve_model(spec.teacher.model)
    dictionary = open_dictionary(folder)
    check_belongs(dictionary, model_fingerprint(teacher), tokenizer_fingerprint(load_tokenizer(teacher)))
    return dictionary


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: null where nothing could be measured."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
