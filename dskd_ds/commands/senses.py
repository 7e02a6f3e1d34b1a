"""`dskd senses ...`: build dictionaries, look at them, measure them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dskd_ds.commands.look import add_look_commands
from dskd_ds.runtime.arguments import Commands, spec_command, spec_of
from dskd_ds.spec import load_spec


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register every command of `dskd senses`."""
    senses = commands.add_parser("senses", help="build sense dictionaries").add_subparsers(
        required=True, metavar="COMMAND"
    )
    _add_build(senses)
    _add_lexicon(senses)
    _add_refresh(senses)
    add_look_commands(senses)
    _add_bench(senses)


def _add_build(senses: Commands[argparse.ArgumentParser]) -> None:
    build = spec_command(
        senses,
        "build",
        "build the dictionary and index of a spec's [senses], unless they are there",
    )
    build.add_argument(
        "--ranks",
        type=int,
        default=1,
        help="MPI ranks that read the text (default 1); the result is the same",
    )
    build.add_argument(
        "--force", action="store_true", help="build anew even if the dictionary is there"
    )
    build.set_defaults(
        command=lambda args: build_senses(args.spec, args.set, args.ranks, args.force)
    )


def build_senses(
    spec_file: str, overrides: Sequence[str], num_ranks: int, force: bool = False
) -> int:
    """Check, launch under mpirun; returns the launch's exit code. Raises InputError for what is wrong with the spec."""
    from dskd_ds.models.named import RunModels
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.runtime import launch

    spec = load_spec(spec_file, overrides)
    preflight(spec, RunModels.of(spec), with_senses=False)
    return launch.run(
        launch.senses_command(spec_file, overrides, num_ranks, ["--force"] if force else [])
    )


def _add_lexicon(senses: Commands[argparse.ArgumentParser]) -> None:
    lexicon = spec_command(
        senses,
        "lexicon",
        "read and merge a spec's [[senses.lexicons]]; print what is in them and how many of the "
        "teacher's tokens they relate",
    )
    lexicon.add_argument(
        "--output",
        metavar="FILE.parquet",
        help='also write the merged table; a spec reads it as kind = "table"',
    )
    lexicon.epilog = (
        "Columns: rows (pairs by part of speech), words, pairs that are synonyms and antonyms, conflicts (pairs that are"
        " both: a stated relation outranks one that follows from an affix, then the antonym stays), flipped (rows that"
        " follow from a negating affix), malformed lines (left out; the first are named on stderr), unusable words (no"
        " letters, or markup in them), and the share of the vocabulary's words with relations. Kinds of lexicons: see"
        " dskd_ds/spec/senses.py."
    )
    lexicon.set_defaults(command=run_lexicon)


def run_lexicon(args: argparse.Namespace) -> int:
    """See lexicon/report.py."""
    from pathlib import Path

    from dskd_ds.lexicon.report import show_lexicon
    from dskd_ds.models.named import NamedModel

    spec = spec_of(args)
    output = Path(args.output) if args.output else None
    show_lexicon(spec, NamedModel.of_teacher(spec.teacher), output)
    return 0


def _add_refresh(senses: Commands[argparse.ArgumentParser]) -> None:
    refresh = spec_command(
        senses,
        "refresh",
        "take a spec's corpus ([data] train) into the dictionary that its [senses] names",
    )
    refresh.add_argument(
        "--ranks",
        type=int,
        default=1,
        help="MPI ranks that read the text (default 1); the result is the same",
    )
    refresh.description = (
        "The teacher reads the spec's corpus; tokens and senses that are new are added and centroids move, without reading again what "
        "the dictionary was made from. Name only the new text in [data] train: a corpus that is in the dictionary is left alone. "
        "The manifest's history lists every corpus. The index is built anew."
    )
    refresh.set_defaults(command=run_refresh)


def run_refresh(args: argparse.Namespace) -> int:
    """Check, launch under mpirun."""
    from dskd_ds.models.named import RunModels
    from dskd_ds.plan.preflight import preflight
    from dskd_ds.runtime import launch

    spec = spec_of(args)
    preflight(spec, RunModels.of(spec), with_senses=False)
    return launch.run(launch.senses_command(args.spec, args.set, args.ranks, ["--refresh"]))


BENCH_HELP = """\
Ratios of two ways to do the same work, measured in turn within one run, each with its target.

  lookup   candidates from word relations: a batch at once against a loop over positions and words
  index    100,000 senses and more: recall and speed against exact search (the first time, a dictionary
           of that size is built under $DSKD_HOME/bench: about ten minutes on two cores)
  pages    memory of eight processes that read the spec's dictionary, against one copy
  kmeans   batched k-means against a loop of scikit-learn's, at the same k, starts and iterations
  adaptive   rows of adaptive clustering against k = 10 at equal error on unseen states; whether k follows WordNet
  collection   tokens a second of collecting against the bare forward pass
  refresh   error of a dictionary refreshed with B after A, against one built from A and B

The spec's dictionary must be there (dskd senses build). Other work on the machine disturbs the figures.
"""


def _add_bench(senses: Commands[argparse.ArgumentParser]) -> None:
    bench = spec_command(
        senses,
        "bench",
        "measure clustering, collection, look-up, index and shared memory, with targets",
        BENCH_HELP,
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
    """See bench/senses.py."""
    from functools import partial

    from dskd_ds.bench.measure import run_and_print
    from dskd_ds.bench.senses import BENCHES
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.runtime.devices import use_threads

    spec = spec_of(args)
    quiet_progress()
    use_threads(spec.topology.threads_per_rank)
    run_and_print(
        {name: partial(bench, spec) for name, bench in BENCHES.items()}, args.only, args.json
    )
    return 0
