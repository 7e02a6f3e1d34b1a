"""`dskd senses show | map | projector | stats | eval`: look at a dictionary, and measure it."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import Commands, spec_command, spec_of
from dskd_ds.spec import RunSpec

if TYPE_CHECKING:
    from dskd_ds.senses.dictionary.dictionary import SenseDictionary

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
    _add_show(senses)
    _add_map(senses)
    _add_projector(senses)
    _add_stats(senses)
    _add_eval(senses)


def _add_show(senses: Commands[argparse.ArgumentParser]) -> None:
    command = spec_command(
        senses, "show", "a word's senses: shares, contexts, nearest words, synonyms and antonyms"
    )
    command.description = (
        "Show the senses of words, in lower case and capitalised. Share: of the word's vectors. Spread: mean squared distance of a sense's"
        " vectors from it, per dimension; so are the distances of the nearest words (of other words' senses, whichever is nearest)."
        " Contexts: where the sense was found; »token« is what the text went on with there, which an arg-max attribution may differ from."
    )
    command.add_argument("word", nargs="+", help="e.g. bank; a phrase of the lexicons in quotes")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=run_show)


def _add_map(senses: Commands[argparse.ArgumentParser]) -> None:
    command = spec_command(
        senses, "map", "a PNG: some words' senses and their neighbours on a plane"
    )
    command.add_argument("word", nargs="+", help="up to 8 words, e.g. bank river money")
    command.add_argument(
        "--output", metavar="FILE.png", help="default: senses-WORD-WORD.png in the run directory"
    )
    command.set_defaults(command=run_map)


def _add_projector(senses: Commands[argparse.ArgumentParser]) -> None:
    command = spec_command(
        senses, "projector", "export senses with labels for TensorBoard's embedding projector"
    )
    command.add_argument("--output", metavar="DIR", help="default: projector/ in the run directory")
    command.add_argument(
        "--max-senses",
        type=int,
        default=5000,
        metavar="N",
        help="the N senses with the most vectors (default 5000; a browser copes with about 10,000)",
    )
    command.set_defaults(command=run_projector)


def _add_stats(senses: Commands[argparse.ArgumentParser]) -> None:
    command = spec_command(
        senses,
        "stats",
        "how many senses, of what, how spread out, and what the lexicons know of them",
    )
    command.add_argument("--output", metavar="FILE.png", help="also draw histograms")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=run_stats)


def _add_eval(senses: Commands[argparse.ArgumentParser]) -> None:
    command = spec_command(
        senses,
        "eval",
        "measure senses: word in context, synonyms against antonyms, word similarity",
    )
    command.description, command.epilog = EVAL_TEXT, EVAL_EPILOG
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument(
        "--layers",
        metavar="LIST",
        help="layers whose states are compared, as in 0,10,-1 (default: four of them)",
    )
    command.add_argument(
        "--dictionary",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a dictionary to measure; several are compared on the same pairs (default: the spec's)",
    )
    command.add_argument(
        "--only",
        action="append",
        default=[],
        choices=PARTS,
        help="measure this part; may be repeated (default: all)",
    )
    command.add_argument(
        "--pairs",
        type=int,
        default=1500,
        metavar="N",
        help="at most this many word-in-context pairs (default 1500: two minutes on a core with SmolLM2)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=run_eval)


def run_show(args: argparse.Namespace) -> int:
    """Look up every word before any is printed, so that a misspelt one is the only thing on the screen."""
    from dskd_ds.senses.look import show

    dictionary, tokenizer = _opened(spec_of(args))
    views = [view for word in args.word for view in show.look_up(dictionary, tokenizer, word)]
    print(
        json.dumps(show.as_json(views), indent=1, ensure_ascii=False)
        if args.json
        else "\n\n".join(map(show.render, views))
    )
    return 0


def run_map(args: argparse.Namespace) -> int:
    """Draw, say where."""
    from dskd_ds.senses.look.map_picture import draw_map

    spec = spec_of(args)
    dictionary, tokenizer = _opened(spec)
    name = re.sub(r"[^\w-]", "_", "-".join(args.word))
    output = Path(args.output or Path(spec.run_dir) / f"senses-{name}.png")
    points = draw_map(dictionary, tokenizer, args.word, output)
    num_senses = sum(point.share is not None for point in points)
    print(f"{output}: {num_senses} senses and {len(points) - num_senses} neighbours")
    return 0


def run_projector(args: argparse.Namespace) -> int:
    """Export, say how to open it."""
    from dskd_ds.senses.look.projector import export_projector

    spec = spec_of(args)
    folder = Path(args.output or Path(spec.run_dir) / "projector")
    if args.max_senses < 1:
        raise InputError(
            f"--max-senses {args.max_senses}: this is no number of senses.\n  give 1 or more."
        )
    number = export_projector(*_opened(spec), folder, args.max_senses)
    print(
        f"{folder}: {number:,} senses\nopen them: tensorboard --logdir {folder}, then http://localhost:6006/#projector"
    )
    return 0


def run_stats(args: argparse.Namespace) -> int:
    """Measure, print, draw."""
    from dskd_ds.senses.look import stats

    dictionary, tokenizer = _opened(spec_of(args))
    found = stats.measure(dictionary, tokenizer)
    print(
        json.dumps(_without_nan(stats.as_json(found)), indent=1)
        if args.json
        else stats.render(found)
    )
    if args.output:
        stats.draw(dictionary, Path(args.output))
        print(args.output, file=sys.stderr)
    return 0


def run_eval(args: argparse.Namespace) -> int:
    """Measure, print tables and how to read them."""
    from dskd_ds.models.named import NamedModel
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.runtime.devices import use_threads
    from dskd_ds.senses.dictionary.dictionary import open_own
    from dskd_ds.senses.intrinsic.evaluate import evaluate_senses
    from dskd_ds.senses.intrinsic.table import READING, render

    spec, layers = spec_of(args), _layers(args.layers)
    teacher = NamedModel.of_teacher(spec.teacher)
    dictionaries = {
        name: open_own(path, teacher) for name, path in _named_paths(args.dictionary, spec).items()
    }
    quiet_progress()
    use_threads(spec.topology.threads_per_rank)
    result = evaluate_senses(spec, teacher, dictionaries, layers, args.only or PARTS, args.pairs)
    print(
        json.dumps(_without_nan(result), indent=1)
        if args.json
        else f"{render(result)}\n\n{READING}",
        end="",
    )
    return 0


def _layers(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise InputError(
            f"--layers {text}: this is no list of layers.\n  example: --layers 0,10,20,-1"
        ) from None


def _named_paths(given: list[str], spec: RunSpec) -> dict[str, str]:
    if wrong := [item for item in given if "=" not in item]:
        raise InputError(
            f"--dictionary {wrong[0]}: this is not of the form NAME=PATH.\n  example: --dictionary k10=runs/mine/senses"
        )
    return dict(item.split("=", 1) for item in given) or {"senses": spec.senses.dictionary}


def _opened(spec: RunSpec) -> tuple[SenseDictionary, Any]:
    """The spec's dictionary and tokenizer. Raises InputError."""
    from dskd_ds.models.named import NamedModel
    from dskd_ds.senses.dictionary.dictionary import open_own

    teacher = NamedModel.of_teacher(spec.teacher)
    return open_own(spec.senses.dictionary, teacher), teacher.tokenizer


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: null where nothing could be measured."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
