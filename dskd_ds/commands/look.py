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
"""What `dskd senses eval` can measure."""

SHOW_TEXT = """\
Show the senses of words, in lower case and capitalised.

Share: the share of the word's vectors. Spread: the mean squared distance between a sense and its
vectors, per dimension. The distances of the nearest words are squared and per dimension, too; they
are the distances of those words' nearest senses.
Contexts: the places in the corpus where the sense was found. »token« is the token that followed
there in the text; with `attribution = "argmax"` it may differ from the word."""

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

Layer 0 is the embeddings; -1 is the state after the final norm, which the head reads and the loss
uses."""

EVAL_EPILOG = """\
examples:
  dskd senses eval my.toml
      measures the spec's dictionary and four layers, all three parts
  dskd senses eval my.toml --dictionary k10=runs/a/senses --dictionary k5=runs/b/senses \\
      --only context
  dskd senses eval my.toml --layers 0,5,10,15,20,25,-1 --json > eval.json"""


def add_look_commands(senses: Commands[argparse.ArgumentParser]) -> None:
    """Register `show`, `map`, `projector`, `stats` and `eval`."""
    _add_show(senses)
    _add_map(senses)
    _add_projector(senses)
    _add_stats(senses)
    _add_eval(senses)


def _add_show(senses: Commands[argparse.ArgumentParser]) -> None:
    command = spec_command(
        senses,
        "show",
        "a word's senses: shares, contexts, nearest words, synonyms and antonyms",
        description=SHOW_TEXT,
    )
    command.add_argument(
        "word", nargs="+", help="for example bank; put a phrase of the lexicons in quotes"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=run_show)


def _add_map(senses: Commands[argparse.ArgumentParser]) -> None:
    command = spec_command(
        senses, "map", "draw the senses of some words and their neighbours on a plane, as a PNG"
    )
    command.add_argument("word", nargs="+", help="up to 8 words, for example bank river money")
    command.add_argument(
        "--vectors",
        action="store_true",
        help="draw the states that the senses were made from, of the words and of their synonyms"
        " (needs a dictionary that was built with [senses] collection_dir)",
    )
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
        help="export the N senses with the most vectors (default 5000; a browser can display"
        " about 10,000)",
    )
    command.set_defaults(command=run_projector)


def _add_stats(senses: Commands[argparse.ArgumentParser]) -> None:
    command = spec_command(
        senses,
        "stats",
        "a dictionary's size, senses per token, spread of senses, and share with word relations",
    )
    command.add_argument("--output", metavar="FILE.png", help="also draw histograms")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=run_stats)


def _add_eval(senses: Commands[argparse.ArgumentParser]) -> None:
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


def run_show(args: argparse.Namespace) -> int:
    """Print the senses of the words; return the exit code."""
    from dskd_ds.senses.look import show

    dictionary, tokenizer = _opened(spec_of(args))
    # All words are looked up before the first is printed: an unknown word is then the only output.
    views = [view for word in args.word for view in show.look_up(dictionary, tokenizer, word)]
    if args.json:
        print(json.dumps(show.as_json(views), indent=1, ensure_ascii=False))
    else:
        print("\n\n".join(show.render(view) for view in views))
    return 0


def run_map(args: argparse.Namespace) -> int:
    """Draw the map and print its path; return the exit code."""
    from dskd_ds.senses.look.map_picture import draw_map

    spec = spec_of(args)
    name = re.sub(r"[^\w-]", "_", "-".join(args.word))
    if args.vectors:
        path = args.output or Path(spec.run_dir) / f"vectors-{name}.png"
        return _map_vectors(spec, args.word, Path(path))
    dictionary, tokenizer = _opened(spec)
    output = Path(args.output or Path(spec.run_dir) / f"senses-{name}.png")
    points = draw_map(dictionary, tokenizer, args.word, output)
    num_senses = sum(point.share is not None for point in points)
    print(f"{output}: {num_senses} senses and {len(points) - num_senses} neighbours")
    return 0


def _map_vectors(spec: RunSpec, words: list[str], output: Path) -> int:
    """Draw the vectors of the words and of their synonyms; return the exit code."""
    from dskd_ds.models.named import NamedModel
    from dskd_ds.senses.look.vectors import choose_vectors, kept_vectors
    from dskd_ds.senses.look.vectors_picture import draw_vectors

    dictionary, tokenizer = _opened(spec)
    vectors_of = kept_vectors(spec, NamedModel.of_teacher(spec.teacher))
    shown = choose_vectors(dictionary, tokenizer, words, vectors_of)
    draw_vectors(shown, f"{dictionary.folder}, layer {dictionary.layer}", output)
    num_vectors = sum(len(word.vectors) for word in shown)
    print(f"{output}: {num_vectors} vectors of {', '.join(word.text for word in shown)}")
    return 0


def run_projector(args: argparse.Namespace) -> int:
    """Export senses and print how to open them; return the exit code."""
    from dskd_ds.senses.look.projector import export_projector

    spec = spec_of(args)
    folder = Path(args.output or Path(spec.run_dir) / "projector")
    if args.max_senses < 1:
        raise InputError(
            f"--max-senses {args.max_senses} is invalid: it must be at least 1.\n"
            "  example: --max-senses 5000"
        )
    dictionary, tokenizer = _opened(spec)
    num_senses = export_projector(dictionary, tokenizer, folder, max_senses=args.max_senses)
    print(
        f"{folder}: {num_senses:,} senses\n"
        f"to open them: tensorboard --logdir {folder}, then http://localhost:6006/#projector"
    )
    return 0


def run_stats(args: argparse.Namespace) -> int:
    """Print the statistics of the dictionary and draw them if asked to; return the exit code."""
    from dskd_ds.senses.look import stats
    from dskd_ds.senses.look.stats_picture import draw
    from dskd_ds.senses.look.stats_text import render

    dictionary, tokenizer = _opened(spec_of(args))
    found = stats.measure(dictionary, tokenizer)
    if args.json:
        print(json.dumps(_without_nan(stats.as_json(found)), indent=1))
    else:
        print(render(found))
    if args.output:
        draw(dictionary, Path(args.output))
        print(args.output, file=sys.stderr)  # stdout may be JSON
    return 0


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
        print(json.dumps(_without_nan(result.as_json()), indent=1), end="")
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


def _opened(spec: RunSpec) -> tuple[SenseDictionary, Any]:
    """Return the spec's dictionary and tokenizer. Raises InputError."""
    from dskd_ds.models.named import NamedModel
    from dskd_ds.senses.dictionary.dictionary import open_own

    teacher = NamedModel.of_teacher(spec.teacher)
    return open_own(spec.senses.dictionary, teacher), teacher.tokenizer


def _without_nan(value: Any) -> Any:
    """Replace NaN by None in a JSON value: JSON has no NaN, and null means "not measured"."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
