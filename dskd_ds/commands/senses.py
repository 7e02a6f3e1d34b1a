"""`dskd senses ...`: builds dictionaries, shows what they hold, measures them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dskd_ds.commands.look import add_look_commands
from dskd_ds.errors import InputError
from dskd_ds.runtime.arguments import Commands, add_ranks, spec_command, spec_of
from dskd_ds.spec import dskd_home, load_spec

SENSES_TEXT = """\
Build sense dictionaries, look at them, measure them.

A sense of a token is the mean of a group of the teacher's hidden states that predict this
token. A dictionary holds the senses of the tokens of a corpus; training with [loss]
sense_weight above 0 reads it. The usual order: `lexicon` shows what the lexicons know, `build`
makes the dictionary, `show` and `stats` show what it holds, then `dskd train`."""

BUILD_TEXT = """\
Let the teacher read the spec's corpus ([data] train, or the texts of [[senses.corpus]]; [senses]
collect_tokens of it), cluster its hidden states into senses, and build an index of them. The
folder is [senses] dictionary.

A dictionary of the same text and settings is kept, unless --force is given. One of other
settings is replaced, but not if text was added to it (dskd senses refresh): that needs --force.
[teacher] dtype counts as a setting, and "auto" as what it is on this machine.
A build that was killed continues where it stopped."""

LEXICON_TEXT = """\
Read and merge the lexicons of a spec ([[senses.lexicons]]), and print what they hold and how
many of the teacher's tokens they relate. Nothing is built. The columns:

  rows               pairs, counted per part of speech
  words              different words in these pairs
  synonyms           pairs of synonyms
  antonyms           pairs of antonyms
  conflicts          pairs that are both: a stated relation outranks one derived from an affix; if
                     both have the same rank, the antonym stays
  flipped            rows derived from a negating affix
  malformed          lines that were left out; the first are printed to stderr
  unusable           words without letters, or with markup, that were left out
  tokens, syn., ant. share of the vocabulary's words that has relations, synonyms, antonyms

Below the table: how many relations are kept, by the related word's number of tokens.
[[senses.lexicons]] kind in `dskd schema` lists the formats that can be read.

`dskd senses lexicon get` lists lexicons with their pages and licences; `dskd senses lexicon get
NAME` downloads one into --output (default: $DSKD_HOME/lexicons/NAME), or takes local copies with
--file, reads it, and prints the lines for a spec."""

REFRESH_TEXT = """\
Let the teacher read a spec's corpus ([data] train) and add it to the dictionary that its
[senses] names. New tokens and senses are added and centroids move; the text that the dictionary
was built from is not read again. Name only the new text in [data] train (or in
[[senses.corpus]]): a corpus that is in the dictionary is skipped. The manifest's history lists
every corpus. The index is rebuilt."""


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register every command of `dskd senses`."""
    group = commands.add_parser(
        "senses",
        help="build sense dictionaries, look at them, measure them",
        description=SENSES_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    senses = group.add_subparsers(required=True, metavar="COMMAND")
    _add_build(senses)
    _add_lexicon(senses)
    _add_refresh(senses)
    add_look_commands(senses)
    _add_bench(senses)


def _add_build(senses: Commands[argparse.ArgumentParser]) -> None:
    build = spec_command(
        senses,
        "build",
        "build the dictionary and index of a spec's [senses], unless they exist",
        description=BUILD_TEXT,
    )
    add_ranks(build, "read the text")
    build.add_argument("--force", action="store_true", help="replace an existing dictionary")
    build.set_defaults(
        command=lambda args: build_senses(
            args.spec, args.set, num_ranks=args.ranks, force=args.force
        )
    )


def build_senses(
    spec_file: str, overrides: Sequence[str], num_ranks: int, force: bool = False
) -> int:
    """Check the spec and launch the build with mpirun; returns the launch's exit code.

    Raises InputError if the spec cannot be built.
    """
    from dskd_ds.data.documents import matching_files
    from dskd_ds.models.named import RunModels
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.plan.whole_teacher import check_whole_teacher
    from dskd_ds.runtime import launch

    spec = load_spec(spec_file, overrides)
    check_whole_teacher(spec, "dskd senses build")
    # The ranks check this too, but a mistake is reported here at once, without starting them.
    preflight(spec, RunModels.of(spec), with_senses=False)
    for index, corpus in enumerate(spec.senses.corpus):
        matching_files(corpus.path, f"senses.corpus.{index}")
    flags = ["--force"] if force else []
    return launch.run(launch.senses_command(spec_file, overrides, num_ranks=num_ranks, flags=flags))


def _add_lexicon(senses: Commands[argparse.ArgumentParser]) -> None:
    lexicon = spec_command(
        senses,
        "lexicon",
        "read and merge a spec's [[senses.lexicons]]; print their size and how many of the "
        "teacher's tokens they relate",
        description=LEXICON_TEXT,
    )
    lexicon.add_argument("name", nargs="?", help="the lexicon to get, after `get`")
    lexicon.add_argument(
        "--output",
        metavar="FILE.parquet",
        help='also write the merged table; a spec reads it as kind = "table". After `get`: the'
        " folder for the lexicon",
    )
    lexicon.add_argument(
        "--file",
        action="append",
        default=[],
        help="after `get NAME`: a local copy, instead of a download (once for each file)",
    )
    lexicon.set_defaults(command=run_lexicon)


def run_lexicon(args: argparse.Namespace) -> int:
    """Print the table of lexicon/report.py and store the merged lexicon if asked to.

    With the word `get` in place of a spec, bring a lexicon into a folder.
    """
    from pathlib import Path

    if args.spec == "get":
        return get_lexicon(args.name, args.file, args.output)
    if args.name or args.file:
        raise InputError(
            f"dskd senses lexicon {args.spec}: a lexicon's name and --file only follow `get`.\n"
            "  use dskd senses lexicon SPEC.toml, or dskd senses lexicon get NAME."
        )
    from dskd_ds.lexicon.report import show_lexicon
    from dskd_ds.models.named import NamedModel

    spec = spec_of(args)
    output = Path(args.output) if args.output else None
    show_lexicon(spec, NamedModel.of_teacher(spec.teacher), output)
    return 0


def get_lexicon(name: str | None, files: Sequence[str], output: str | None) -> int:
    """Bring a lexicon into a folder, or list those that are known. Raises InputError."""
    from pathlib import Path

    from dskd_ds.lexicon import get

    if name is None:
        print(get.describe_all())
        return 0
    folder = Path(output) if output else dskd_home() / "lexicons" / name
    for line in get.get_lexicon(name, files, folder):
        print(line, flush=True)
    return 0


def _add_refresh(senses: Commands[argparse.ArgumentParser]) -> None:
    refresh = spec_command(
        senses,
        "refresh",
        "add a spec's corpus ([data] train) to the dictionary that its [senses] names",
        description=REFRESH_TEXT,
    )
    add_ranks(refresh, "read the text")
    refresh.set_defaults(command=run_refresh)


def run_refresh(args: argparse.Namespace) -> int:
    """Check the spec and launch the refresh with mpirun; returns the exit code."""
    from dskd_ds.models.named import RunModels
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.plan.whole_teacher import check_whole_teacher
    from dskd_ds.runtime import launch

    spec = spec_of(args)
    check_whole_teacher(spec, "dskd senses refresh")
    preflight(spec, RunModels.of(spec), with_senses=False)
    return launch.run(
        launch.senses_command(args.spec, args.set, num_ranks=args.ranks, flags=["--refresh"])
    )


BENCH_HELP = """\
Measure two ways to do the same work in turn, and print their ratio beside its target.

  lookup      candidates from word relations: a whole batch against a loop over positions and words
  index       100,000 senses and more: recall and speed against exact search (the first time, a
              dictionary of that size is built in $DSKD_HOME/bench: about ten minutes on two cores)
  pages       memory of eight processes that read the spec's dictionary, against one copy
  kmeans      batched k-means against a loop of scikit-learn's, at equal k, starts and iterations
  adaptive    rows of adaptive clustering against k = 10 at equal error on unseen states; whether k
              follows WordNet
  collection  tokens per second of collecting against the bare forward pass
  refresh     error of a dictionary refreshed with B after A, against one built from A and B

The spec's dictionary must exist (dskd senses build). Other work on the machine disturbs it.
"""


def _add_bench(senses: Commands[argparse.ArgumentParser]) -> None:
    bench = spec_command(
        senses,
        "bench",
        "measure clustering, collection, look-up, index and shared memory, with targets",
        description=BENCH_HELP,
    )
    bench.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="run this bench only (may be given several times)",
    )
    bench.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )
    bench.set_defaults(command=run_bench)


def run_bench(args: argparse.Namespace) -> int:
    """Run the chosen benches of bench/senses.py on the spec."""
    from functools import partial

    from dskd_ds.bench.measure import run_and_print
    from dskd_ds.bench.senses import BENCHES
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.runtime.devices import use_threads

    spec = spec_of(args)
    quiet_progress()
    use_threads(spec.topology.threads_per_rank)
    benches = {name: partial(bench, spec) for name, bench in BENCHES.items()}
    run_and_print(benches, args.only, args.json)
    return 0
