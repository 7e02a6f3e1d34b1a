"""The options of `dskd data continue`. Importing this loads neither torch nor transformers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError


@dataclass(frozen=True)
class Settings:
    """How continuations are written."""

    new_tokens: int
    """Most tokens of a continuation."""
    temperature: float
    """0 takes the likeliest token each time."""
    whole: bool
    """Keep continuations whole instead of cutting each at a random point."""
    batch: int
    """Conversations that are continued together; it changes the result through rounding."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `dskd data continue`, or of the ranks that it launches."""
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE.jsonl", help="where to write"
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="PATH",
        help="files of conversations to continue (default: the spec's [data] train)",
    )
    parser.add_argument(
        "--new-tokens", type=int, default=64, help="longest continuation (default 64)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0: the likeliest token each time (default); 1: drawn from the teacher's distribution",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="keep continuations whole instead of cutting each at a random point",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=16,
        help="conversations at a time (default 16); part of the result",
    )


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings in parsed options. Raises InputError if one is out of range."""
    for name in ("new_tokens", "batch"):
        if getattr(args, name) < 1:
            raise InputError(
                f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1.\n"
                "  give a positive number."
            )
    if args.temperature < 0:
        raise InputError(
            f"--temperature {args.temperature}: must not be negative.\n"
            "  give 0 for the likeliest tokens, or a larger value."
        )
    return Settings(args.new_tokens, args.temperature, args.whole, args.batch)


def words_of(args: argparse.Namespace) -> list[str]:
    """Return the options as arguments of a command line."""
    inputs = [word for path in args.input for word in ("--input", path)]
    return [
        "--output",
        str(args.output),
        *inputs,
        "--new-tokens",
        str(args.new_tokens),
        "--temperature",
        str(args.temperature),
        "--batch",
        str(args.batch),
        *(["--whole"] if args.whole else []),
    ]
