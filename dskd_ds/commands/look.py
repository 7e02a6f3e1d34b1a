"""`dskd senses show | map | projector | stats`: look at a dictionary."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dskd_ds.commands.look_eval import add_eval_command, without_nan
from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import Commands, spec_command, spec_of
from dskd_ds.spec import RunSpec

if TYPE_CHECKING:
    from dskd_ds.senses.dictionary.dictionary import SenseDictionary

SHOW_TEXT = """\
Show the senses of words, in lower case and capitalised.

Share: the share of the word's vectors. Spread: the mean squared distance between a sense and its
vectors, per dimension. The distances of the nearest words are squared and per dimension, too; they
are the distances of those words' nearest senses.
Contexts: the places in the corpus where the sense was found. »token« is the token that the state
belongs to: the one that followed there in the text, which with `attribution = "argmax"` may differ
from the word; with `attribution = "on"`, the one at the place itself."""


def add_look_commands(senses: Commands[argparse.ArgumentParser]) -> None:
    """Register `show`, `map`, `projector`, `stats` and `eval`."""
    _add_show(senses)
    _add_map(senses)
    _add_projector(senses)
    _add_stats(senses)
    add_eval_command(senses)


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
        print(json.dumps(without_nan(stats.as_json(found)), indent=1))
    else:
        print(render(found))
    if args.output:
        draw(dictionary, Path(args.output))
        print(args.output, file=sys.stderr)  # stdout may be JSON
    return 0


def _opened(spec: RunSpec) -> tuple[SenseDictionary, Any]:
    """Return the spec's dictionary and tokenizer. Raises InputError."""
    from dskd_ds.models.named import NamedModel
    from dskd_ds.senses.dictionary.dictionary import open_own

    teacher = NamedModel.of_teacher(spec.teacher)
    return open_own(spec.senses.dictionary, teacher), teacher.tokenizer
