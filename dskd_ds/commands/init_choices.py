"""What `dskd init` chooses for a new spec: teacher, text, WordNet, number of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dskd_ds.commands.new_spec import Ranks
from dskd_ds.errors import InputError
from dskd_ds.models.public_models import public_config
from dskd_ds.spec.data import SourceSpec
from dskd_ds.spec.load import expand, read_toml
from dskd_ds.spec.shipped import shipped_folder

SYSTEM_WORDNET = "/usr/share/wordnet"
"""Where Debian's package wordnet-base puts WordNet."""
KEPT_SHARE = 2 / 3
"""Share of the teacher's layers that the student keeps, as in the quickstart."""


@dataclass(frozen=True)
class Teacher:
    """A teacher and what is known of it without loading it."""

    model: str
    num_kept_layers: int | None
    max_tokens: int | None
    """Longest input that the model takes."""


def choose_cluster_ranks(gpus_per_node: int) -> Ranks:
    """Divide a cluster's nodes into students and teachers.

    A node of 3 or more GPUs holds both; a quarter of them teach. Smaller nodes hold one of the two:
    two students and a teacher.
    """
    num_teachers = max(1, gpus_per_node // 4)
    return Ranks(
        machine=f"nodes of {gpus_per_node} {'GPU' if gpus_per_node == 1 else 'GPUs'}",
        num_students=max(2, gpus_per_node - num_teachers),
        num_teachers=num_teachers,
        threads_per_rank=0,
        deepspeed="ds_configs/zero3.json",
        gpus_per_node=gpus_per_node,
    )


def choose_ranks(num_gpus: int, num_cores: int) -> Ranks:
    """Divide this machine into students and teachers.

    GPUs: a quarter of them teach. CPU: two students and a teacher share the cores.
    """
    if num_gpus:
        num_teachers = max(1, num_gpus // 4)
        # A single GPU is left with no rank to train: then both ranks share it.
        num_students = max(1, num_gpus - num_teachers)
        return Ranks(
            machine="1 GPU, shared by both ranks" if num_gpus == 1 else f"{num_gpus} GPUs",
            num_students=num_students,
            num_teachers=num_teachers,
            threads_per_rank=0,
            deepspeed=f"ds_configs/{'zero0' if num_students == 1 else 'zero3'}.json",
        )
    num_students = 1 if num_cores == 1 else 2
    return Ranks(
        machine="1 CPU core" if num_cores == 1 else f"{num_cores} CPU cores",
        num_students=num_students,
        num_teachers=1,
        threads_per_rank=max(1, num_cores // (num_students + 1)),
        deepspeed="ds_configs/zero3_cpu.json",
    )


def count_gpus() -> int:
    """Return the number of accelerators that torch sees."""
    import torch

    return torch.accelerator.device_count()


def quickstart_teacher() -> Teacher:
    """Return the quickstart's teacher. Raises InputError if it was not fetched."""
    tree = _quickstart_tree()
    model: str = tree["teacher"]["model"]
    if not Path(expand(model)).is_file():
        raise InputError(
            _missing(option="--teacher", noun="model", path=expand(model), value="NAME")
        )
    return Teacher(model, num_kept_layers=tree["student"]["num_layers"], max_tokens=None)


def quickstart_text(part: str) -> tuple[SourceSpec, ...]:
    """Return the quickstart's sources of a part of the data. Raises InputError without them."""
    sources = tuple(SourceSpec(**source) for source in _quickstart_tree()["data"][part])
    for source in sources:
        if not Path(expand(source.path)).is_file():
            raise InputError(
                _missing(option="--text", noun="texts", path=expand(source.path), value="PATH")
            )
    return sources


def _quickstart_tree() -> dict[str, Any]:
    """Return the content of the quickstart's spec, with its `$VARIABLES` as they are."""
    return read_toml(shipped_folder() / "runs" / "quickstart.toml")


def _missing(option: str, noun: str, path: str, value: str) -> str:
    """Return the message for a missing option whose default was not fetched."""
    return (
        f"{option} is not given, and the quickstart has not fetched its {noun}:"
        f" {path} is missing.\n"
        f"  give {option} {value}, or run `dskd quickstart` first."
    )


def given_teacher(model: str) -> Teacher:
    """Check a teacher that is a path. A hub name is not looked up on the hub. Raises InputError."""
    path = Path(expand(model))
    if path.suffix == ".gguf" and path.is_file():
        return Teacher(model, num_kept_layers=None, max_tokens=None)  # not converted just for this
    from dskd_ds.models.named import NamedModel

    named = NamedModel(expand(model), key="--teacher")
    named.locate()
    if path.is_dir():
        return Teacher(model, _kept(named.num_layers), named.max_tokens)
    config = public_config(model)
    if config is None:
        return Teacher(model, num_kept_layers=None, max_tokens=None)
    return Teacher(model, _kept(config["num_hidden_layers"]), config.get("max_position_embeddings"))


def _kept(num_layers: int) -> int:
    """Return how many of a teacher's layers the student keeps."""
    return max(1, round(num_layers * KEPT_SHARE))


def given_text(text: str) -> tuple[SourceSpec, ...]:
    """Check files that a path names. A hub dataset is not looked up. Raises InputError."""
    from dskd_ds.data.documents import matching_files

    try:
        matching_files(expand(text))
    except InputError as error:
        raise InputError(f"--text: {error}") from None
    return (SourceSpec(path=text),)


def wordnet_folder() -> str | None:
    """Return the folder of WordNet's database: the quickstart's or the system's, or None."""
    fetched: str = _quickstart_tree()["senses"]["lexicons"][0]["path"]
    for folder in (fetched, SYSTEM_WORDNET):
        if (Path(expand(folder)) / "data.noun").is_file():
            return folder
    return None
