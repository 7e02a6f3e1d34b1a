"""`dskd cache`: what is kept of which teacher, whether it is whole, how often it was of use."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from dskd_ds.errors import ExitCode
from dskd_ds.runtime.arguments import Commands, at_least, spec_command, spec_of
from dskd_ds.spec import RunSpec

TEXT = """\
List the teachers whose signal [teacher] cache_dir keeps, and how much of a run's signal came from
it. What is kept of the spec's own teacher is marked with `*`. Exit code 1 if --verify finds damage;
damaged records are asked again by the next run, so nothing needs to be done about them.

  dskd cache my.toml
  dskd cache my.toml --verify
  dskd cache my.toml --prune 20000000000   # the oldest signal is removed
  dskd cache my.toml --remove-others       # keeps what has this spec's teacher's weights"""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd cache`."""
    command = spec_command(commands, "cache", "list, verify and prune kept teacher signal", TEXT)
    command.add_argument("--verify", action="store_true", help="read all records, name damage")
    command.add_argument(
        "--prune",
        type=at_least(1),
        metavar="BYTES",
        help="remove the oldest signal of any teacher until at most this many bytes are left",
    )
    command.add_argument(
        "--remove-others",
        action="store_true",
        help="remove the signal of all teachers with other weights than the spec's",
    )
    command.set_defaults(command=run_cache)


def run_cache(args: argparse.Namespace) -> int:
    """Prune and verify if asked to, then list; returns the exit code."""
    from dskd_ds.models.named import RunModels
    from dskd_ds.signal_cache.inspect import remove_other_teachers
    from dskd_ds.signal_cache.room import prune

    spec = spec_of(args)
    root = Path(spec.teacher.cache_folder)
    if args.remove_others:
        weights = RunModels.of(spec).teacher.weights_digest
        print(f"removed {remove_other_teachers(root, weights):,} bytes of other teachers")
    if args.prune is not None:
        print(f"removed {prune(root, args.prune):,} bytes, the oldest first")
    print_teachers(spec)
    print_hit_rate(spec)
    return verify_all(root) if args.verify else int(ExitCode.DONE)


def print_teachers(spec: RunSpec) -> None:
    """Print a line per teacher whose signal is kept, and the sum."""
    from dskd_ds.models.named import RunModels
    from dskd_ds.models.reply_identity import reply_fingerprint
    from dskd_ds.signal_cache.folder import kept_fingerprint
    from dskd_ds.signal_cache.inspect import holdings

    root = Path(spec.teacher.cache_folder)
    found = holdings(root)
    own = ""
    if found:
        models = RunModels.of(spec)
        fingerprint = reply_fingerprint(spec, models)
        own = kept_fingerprint(spec.teacher, fingerprint, models.teacher.weights_digest)
    print(f"{'':<2}{'bytes':>16}{'records':>11}{'segments':>10}  teacher")
    for holding in found:
        mark = "*" if holding.teacher.fingerprint == own else ""
        numbers = f"{holding.num_bytes:>16,}{holding.num_records:>11,}{holding.num_segments:>10}"
        print(f"{mark:<2}{numbers}  {holding.teacher.model}  {holding.teacher.fingerprint}")
    total = sum(holding.num_bytes for holding in found)
    limit = spec.teacher.cache_limit_bytes
    print(f"{root}: {total:,} bytes, limit {f'{limit:,}' if limit else 'none'}")


def print_hit_rate(spec: RunSpec) -> None:
    """Print which share of the run's signal came from the cache, if the run has begun."""
    from dskd_ds.observe.metrics import METRICS_FILE, read_metrics

    if not (Path(spec.run_dir) / METRICS_FILE).is_file():
        return
    records = read_metrics(Path(spec.run_dir))
    rates = [record["cache_hit_rate"] for record in records if "cache_hit_rate" in record]
    if rates:
        print(
            f"{spec.run_dir}: the cache had {sum(rates) / len(rates):.1%} of the signal of"
            f" {len(rates)} recorded steps, {rates[-1]:.1%} of the last one's"
        )


def verify_all(root: Path) -> int:
    """Read all records; returns exit code 1 if one is damaged."""
    from dskd_ds.signal_cache.inspect import Damage, verify
    from dskd_ds.signal_cache.room import segment_files

    num_whole = num_damaged = 0
    for file in tqdm(segment_files(root), desc="verify", unit="segment", disable=None):
        for found in verify(file.path):
            if isinstance(found, Damage):
                num_damaged += 1
                tqdm.write(f"{found.path}, byte {found.offset}: {found.reason}", file=sys.stderr)
            else:
                num_whole += 1
    print(f"verified: {num_whole:,} records are whole, {num_damaged:,} places are damaged")
    return int(ExitCode.FAILED if num_damaged else ExitCode.DONE)
