"""`dskd init`: writes a short commented spec that runs on this machine, and lists what ships."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dskd_ds.commands.init_choices import (
    choose_cluster_ranks,
    choose_ranks,
    count_gpus,
    given_teacher,
    given_text,
    quickstart_teacher,
    quickstart_text,
    wordnet_folder,
)
from dskd_ds.commands.new_spec import NewSpec, next_commands, spec_text
from dskd_ds.errors import InputError
from dskd_ds.plan.refuse import refuse_what_cannot_fit
from dskd_ds.runtime.arguments import Commands, add_force, at_least
from dskd_ds.spec import load_spec
from dskd_ds.spec.shipped import (
    DEEPSPEED_CONFIGS,
    RUN_SPECS,
    STUDIES,
    described_files,
    shipped_folder,
)

TEXT = """\
Write a short commented spec that runs on this machine, and print the commands that follow.

Without --teacher and --text the spec names the quickstart's model and texts, if they are there.
The student keeps two thirds of the teacher's layers, if their number is known without the hub.

On the login node of a cluster, say what the nodes of the run have: --gpus-per-node 8. The spec then
has the settings for GPUs, and this machine's memory does not count."""
CPU_BLOCK_TOKENS, GPU_BLOCK_TOKENS = 256, 1024
"""Block length for a first run, short on a CPU because a step takes seconds there."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd init`."""
    command = commands.add_parser(
        "init",
        help="write a spec for a run of your own; --list names the specs that ship",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("spec", nargs="?", type=Path, metavar="FILE.toml", help="file to write")
    command.add_argument(
        "--teacher", metavar="NAME", help="hub name, folder or .gguf file of the teacher"
    )
    command.add_argument(
        "--text",
        metavar="PATH",
        help="text to train on: a .txt, .jsonl, .json or .parquet file, a glob, or a hub dataset",
    )
    command.add_argument(
        "--gpus-per-node",
        type=at_least(1),
        metavar="N",
        help="GPUs of each node that the run is for; without it, the run is for this machine",
    )
    command.add_argument(
        "--list",
        action="store_true",
        help="list the run specs, studies and DeepSpeed configurations that ship, and write"
        " nothing",
    )
    add_force(command)
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Write the spec, or list what ships. Raises InputError for wrong arguments."""
    if args.list:
        print_shipped()
        return 0
    if args.spec is None:
        raise InputError("dskd init: no file is named.\n  example: dskd init my.toml")
    new = init(
        args.spec,
        args.teacher,
        args.text,
        gpus_per_node=args.gpus_per_node,
        is_forced=args.force,
    )
    print(f"wrote {new.path}: teacher {new.teacher}, text {new.train[0].path}")
    if new.num_layers is None:
        print(
            "the student is a copy of the teacher so far, which has nothing to learn:"
            " say in [student] how many layers it keeps, or name another model"
        )
    print("next:", *next_commands(new), sep="\n  ")
    return 0


def print_shipped() -> None:
    """Print every shipped file with its description."""
    print(f"These names work from any folder. The files are in {shipped_folder()}.")
    for kind in (RUN_SPECS, STUDIES, DEEPSPEED_CONFIGS):
        print(f"\n{kind.title}:")
        for name, description in described_files(kind).items():
            print(f"  {name}\n      {description}")


def init(
    path: Path,
    teacher: str | None,
    text: str | None,
    gpus_per_node: int | None = None,
    is_forced: bool = False,
) -> NewSpec:
    """Write a spec and validate it; returns the choices. On InputError no file is left.

    gpus_per_node: of the cluster that the run is for; None for this machine. is_forced: write it
    although the run will not fit into this machine's memory.
    """
    _check_target(path)
    known_teacher = quickstart_teacher() if teacher is None else given_teacher(teacher)
    if text is None:
        train, heldout = quickstart_text("train"), quickstart_text("heldout")
    else:
        train, heldout = given_text(text), ()
    num_gpus = gpus_per_node or count_gpus()
    # The cores that this process may use: a batch job may have fewer than the machine.
    num_cores = len(os.sched_getaffinity(0))
    ranks = (
        choose_ranks(num_gpus, num_cores)
        if gpus_per_node is None
        else choose_cluster_ranks(gpus_per_node)
    )
    longest = GPU_BLOCK_TOKENS if num_gpus else CPU_BLOCK_TOKENS
    new = NewSpec(
        path=path,
        teacher=known_teacher.model,
        num_layers=known_teacher.num_kept_layers,
        train=train,
        heldout=heldout,
        wordnet=wordnet_folder(),
        block_tokens=min(longest, known_teacher.max_tokens or longest),
        ranks=ranks,
    )
    _write_valid(new, is_forced)
    return new


def _check_target(path: Path) -> None:
    """Raise InputError if the file exists or cannot be a spec."""
    if path.exists():
        raise InputError(
            f"{path}: this file exists and is not overwritten.\n"
            "  give another name, or remove the file first."
        )
    if path.suffix != ".toml":
        raise InputError(f"{path}: a spec's name ends in .toml.\n  use {path.with_suffix('.toml')}")
    if not path.parent.is_dir():
        raise InputError(
            f"{path}: the folder {path.parent} does not exist.\n  create it, or name another."
        )


def _write_valid(new: NewSpec, is_forced: bool) -> None:
    """Write the spec, and remove it again if it is not valid or cannot fit. Raises InputError."""
    try:
        with new.path.open("x", encoding="utf-8") as file:
            file.write(spec_text(new))
    except OSError as error:
        raise InputError(
            f"{new.path}: it cannot be written: {error.strerror}.\n"
            "  name a file in a folder that you may write to."
        ) from None
    try:
        spec = load_spec(new.path)
        if not new.ranks.for_cluster:
            refuse_what_cannot_fit(spec, is_forced)
    except InputError:
        new.path.unlink()
        raise
