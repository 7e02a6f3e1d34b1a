"""`dskd data ...`: makes files of conversations that `[data]` reads, and packs its text."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from dskd_ds.commands import questions
from dskd_ds.data.continue_options import add_options, argv_of, recipe_of
from dskd_ds.data.epoch_files import check_output
from dskd_ds.data.recipes.question_sets import SETS
from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import (
    Commands,
    add_overrides,
    add_ranks,
    at_least,
    spec_command,
    spec_of,
)
from dskd_ds.spec import RunSpec
from dskd_ds.spec.recipe import RecipeSpec

DATA_TEXT = """\
Make files of conversations to train on, in the way of the paper: `paper` writes few-shot chats
from question sets, and `continue` lets the teacher write the last answer of each. `questions`
splits other question sets into training conversations and a test. `pack` turns the text of a run
into tokens once, for all runs that read it."""

PAPER_TEXT = """\
Write the paper's mixture as chats: a quarter of CSQA, PIQA, ARC-Challenge and MMLU with 5 shots, 30
percent of SQuAD 2.0 with 1. The [recipe] of a run spec changes shares, wording, sources and epochs.

With several epochs the questions stay and the shots are drawn anew, a file per epoch:
  dskd data paper my.toml --epochs 2 --output data/chats-{epoch}.jsonl"""

CONTINUE_TEXT = """\
Let the teacher write the last answer of each conversation, and cut it at a random point
(paper). The same command resumes a job that was killed. Lengths, sampling and cut come from the
[recipe] of the spec; options override them.

With several epochs each has continuations and cuts of its own, in a file of its own:
  dskd data continue my.toml --epochs 2 --input data/chats-{epoch}.jsonl \\
    --output data/continued-{epoch}.jsonl

A source reads the file with: format = "chat", title_field = "title". By the title a held-out
question is kept out of the files of all epochs. With supervise = "completions" only what the
teacher wrote is a target."""


PACK_TEXT = """\
Turn the training text of a run into tokens once, and write them to the folder of [data] packed as
Arrow files that runs map into memory. A run then opens its text at once, whatever the size, and
trains on the same blocks in the same order as without the folder. The same command resumes a job
that was killed. If the folder is complete, it only compares the files with their digests.

Several runs may use one folder, if they agree in tokenizer, text and block length. A run refuses
the folder if its text has changed since. [[data.train]] weight may change without packing again."""


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register every command of `dskd data`."""
    group = commands.add_parser(
        "data",
        help="make training data: the paper's mixture, the teacher's continuations, packed text",
        description=DATA_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = group.add_subparsers(required=True, metavar="COMMAND")
    _add_paper(data)
    _add_continue(data)
    questions.add_command(data)
    _add_pack(data)


def _add_paper(data: Commands[argparse.ArgumentParser]) -> None:
    paper = data.add_parser(
        "paper",
        help="write the paper's mixture as chats: CSQA, PIQA, ARC-Challenge, MMLU and SQuAD 2.0",
        description=PAPER_TEXT,
        epilog='a source reads it with: format = "chat", title_field = "title"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    paper.add_argument(
        "spec", nargs="?", help="a run's TOML spec, whose [recipe] and seed are used (optional)"
    )
    add_overrides(paper)
    paper.add_argument(
        "--output",
        required=True,
        metavar="FILE.jsonl",
        help="where to write; {epoch} in it stands for the epoch's number",
    )
    for name, question_set in SETS.items():
        paper.add_argument(
            f"--{name}",
            metavar="PATH",
            help=f"a file (.jsonl, .json, .parquet) or hub name for {question_set.title} "
            f"(default: [recipe.{name}], else {question_set.source.path})",
        )
    paper.add_argument(
        "--only",
        nargs="+",
        choices=list(SETS),
        metavar="SET",
        help=f"use only these sets; known sets: {', '.join(SETS)}",
    )
    paper.add_argument(
        "--style",
        choices=get_args(RecipeSpec.model_fields["style"].annotation),
        help="wording of the prompts and draw of the shots (default: [recipe] style, or lettered)",
    )
    paper.add_argument(
        "--epochs",
        type=at_least(1),
        metavar="N",
        help="draw shots anew for each of N epochs, a file each (default: [recipe] epochs, or 1)",
    )
    paper.add_argument(
        "--all",
        action="store_true",
        help="take all questions of each set instead of a share, as for a sense dictionary (paper)",
    )
    paper.add_argument(
        "--seed", type=int, metavar="N", help="seed of the random draws (default: the spec's, or 0)"
    )
    paper.set_defaults(command=run_paper)


def run_paper(args: argparse.Namespace) -> int:
    """Write the mixture and print how much of each set it holds."""
    from dskd_ds.data.recipes.paper import write_mixture

    spec = None if args.spec is None else spec_of(args)
    recipe = paper_recipe(args, spec)
    seed = args.seed if args.seed is not None else (spec.seed if spec else 0)
    counts = write_mixture(
        args.output,
        recipe,
        paths={name: getattr(args, name) for name in SETS},
        seed=seed,
        max_lost_fraction=spec.data.max_lost_fraction if spec else 1.0,
    )
    print(f"{'set':<16}{'questions':>10}{'left out':>10}{'chats':>8}{'shots':>8}")
    for name, count in counts.items():
        numbers = f"{count.num_questions:>10}{count.num_malformed:>10}{count.num_chats:>8}"
        print(f"{SETS[name].title:<16}{numbers}{count.mean_shots:>8.2f}")
    if "arc" in counts and counts["arc"].num_numbered:
        numbered, total = counts["arc"].num_numbered, counts["arc"].num_chats
        print(
            f"{numbered} of {total} chats of {SETS['arc'].title} have digits as labels;"
            " a tokenizer that writes a blank token first cannot answer them with one new token"
        )
    print(f"stored in {args.output}, epochs: {recipe.epochs}")
    return 0


def paper_recipe(args: argparse.Namespace, spec: RunSpec | None) -> RecipeSpec:
    """Return the recipe of a spec, changed by the options of `dskd data paper`."""
    given = spec.recipe if spec is not None else None
    recipe = given or RecipeSpec()
    changes: dict[str, Any] = {
        "sets": tuple(args.only) if args.only else None,
        "style": args.style,
        "epochs": args.epochs,
        **({"choice_share": 1.0, "squad_share": 1.0} if args.all else {}),
    }
    return recipe.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )


def _add_continue(data: Commands[argparse.ArgumentParser]) -> None:
    text = "let the teacher write each conversation's last answer, cut at a random point (paper)"
    command = spec_command(data, "continue", text, description=CONTINUE_TEXT)
    add_options(command)
    add_ranks(command, "write")
    command.set_defaults(command=run_continue)


def run_continue(args: argparse.Namespace) -> int:
    """Check the arguments and launch the ranks with mpirun; returns the exit code."""
    from dskd_ds.runtime import launch

    # Wrong input is reported here, once, and not by every rank.
    check_output(args.output, recipe_of(args, spec_of(args)).epochs)
    return launch.run(
        launch.continue_command(args.spec, args.set, num_ranks=args.ranks, flags=argv_of(args))
    )


def _add_pack(data: Commands[argparse.ArgumentParser]) -> None:
    text = "turn a run's training text into tokens once, in the folder of [data] packed"
    command = spec_command(data, "pack", text, description=PACK_TEXT)
    add_ranks(command, "tokenise")
    command.set_defaults(command=run_pack)


def run_pack(args: argparse.Namespace) -> int:
    """Check the spec and launch the ranks with mpirun; returns the exit code."""
    from dskd_ds.runtime import launch

    # Wrong input is reported here, once, and not by every rank.
    check_packable(spec_of(args))
    return launch.run(launch.pack_command(args.spec, args.set, num_ranks=args.ranks))


def check_packable(spec: RunSpec) -> None:
    """Raise InputError if a spec names no folder for packed text, or a text that is missing."""
    from dskd_ds.data.documents import matching_files

    if spec.data.packed is None:
        raise InputError(
            "[data] packed is not given, so there is no folder to pack into.\n"
            "  add it to the spec, or call with --set data.packed=FOLDER."
        )
    for index, source in enumerate(spec.data.train):
        for epoch in range(spec.data.epoch_files):
            matching_files(source.of_epoch(epoch).path, f"data.train.{index}")
