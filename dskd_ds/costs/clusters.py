"""Clusters of GPUs: speeds and sizes that a run's costs follow from, read from TOML files.

The shipped files are in `cluster_files/`. A user's own file has the same keys, which are the fields
of `Cluster`. Loads no torch.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from dskd_ds.errors import InputError

Architecture = Literal["ampere", "hopper", "volta", "measured"]
"""What the reached share of a peak speed depends on. `measured`: the speeds of the cluster were
measured, and not taken from a data sheet, so they count as they are."""
Number = int | float


@dataclass(frozen=True)
class Cluster:
    """Nodes with the same GPUs. Bandwidths are in bytes per second and one direction."""

    name: str
    gpu: str
    """Name of the GPU, for tables."""
    architecture: Architecture
    memory_bytes: int
    """Memory of a GPU that its driver reports; of a rank, if ranks have no GPU."""
    flops_per_second: float
    """Peak of dense matrix products in the training's format (bfloat16; float16 on Volta)."""
    memory_bandwidth: float
    """Of a GPU's own memory."""
    gpus_per_node: int
    node_bandwidth: float
    """Of one GPU to the others of its node, all together."""
    network_bandwidth: float
    """Of one GPU's share of the network between nodes."""
    cpu_cores_per_node: int
    node_memory_bytes: int
    disk_read_bandwidth: float
    """Of one node, from the shared file system."""
    disk_write_bandwidth: float
    """Of one node, to the shared file system."""
    disk_total_write_bandwidth: float
    """Of all nodes together, to the shared file system."""
    sustained_clock: float = 1.0
    """Share of the peak's clock that the power limit leaves in long matrix products, 0..1."""
    sources: tuple[str, ...] = ()
    """Where the numbers are from, and which of them are assumptions."""

    def bandwidth(self, num_ranks: int) -> float:
        """Return what one GPU sends and receives in a collective of `num_ranks` full nodes' GPUs.

        Inside a node it is the node's. Between nodes every GPU uses its own network share, and a
        ring crosses the network once per node, so `gpus_per_node` shares carry one ring's bytes.
        """
        if num_ranks <= self.gpus_per_node:
            return self.node_bandwidth
        return min(self.node_bandwidth, self.network_bandwidth * self.gpus_per_node)

    def num_nodes(self, num_ranks: int) -> int:
        """Return the number of nodes that `num_ranks` ranks take."""
        return -(-num_ranks // self.gpus_per_node)


FIELDS = {field.name: field for field in fields(Cluster)}
OPTIONAL = ("sustained_clock", "sources")


def shipped_clusters() -> dict[str, Path]:
    """Return the shipped cluster files by name."""
    folder = Path(str(resources.files("dskd_ds.costs") / "cluster_files"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def open_cluster(name_or_file: str) -> Cluster:
    """Return a shipped cluster by its name, or the one that a TOML file describes.

    Raises InputError if there is none with that name, or if the file is invalid.
    """
    shipped = shipped_clusters()
    path = shipped.get(name_or_file, Path(name_or_file).expanduser())
    if not path.is_file():
        close = difflib.get_close_matches(name_or_file, shipped, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        raise InputError(
            f'cluster "{name_or_file}": unknown name, and no such file.{hint}\n'
            f"  use one of {', '.join(shipped)}, or the path of a TOML file with the same keys as"
            f" {shipped['h100-80']}."
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the file is not valid TOML: {error}.") from None
    return cluster_from(content, str(path))


def cluster_from(content: dict[str, Any], file: str) -> Cluster:
    """Return the cluster that a file's content describes. Raises InputError if it is invalid."""
    for key in content:
        if key not in FIELDS:
            close = difflib.get_close_matches(key, FIELDS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputError(f"{file}: unknown key {key}.{hint}\n  remove or rename it.")
    missing = [key for key in FIELDS if key not in content and key not in OPTIONAL]
    if missing:
        raise InputError(f"{file}: {missing[0]} is missing.\n  a cluster needs a value for it.")
    if content["architecture"] not in get_args(Architecture):
        raise InputError(
            f'{file}: architecture = "{content["architecture"]}" is invalid.\n'
            f"  use one of {', '.join(get_args(Architecture))}."
        )
    for key, value in content.items():
        _check_value(file, key, value)
    return Cluster(**content | {"sources": tuple(content.get("sources", ()))})


def _check_value(file: str, key: str, value: Any) -> None:
    """Raise InputError if a value has the wrong type or is not positive."""
    kind = str(FIELDS[key].type)
    if kind in ("int", "float"):
        is_number = isinstance(value, Number) and not isinstance(value, bool)
        if not is_number or value <= 0 or (kind == "int" and not isinstance(value, int)):
            kind_name = "a positive whole number" if kind == "int" else "a positive number"
            raise InputError(f"{file}: {key} = {value!r} is invalid.\n  use {kind_name}.")
        if key == "sustained_clock" and value > 1:
            raise InputError(f"{file}: {key} = {value!r} is invalid.\n  use at most 1.")
    elif key == "sources":
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InputError(f"{file}: sources is invalid.\n  use a list of texts.")
    elif not isinstance(value, str):
        raise InputError(f"{file}: {key} = {value!r} is invalid.\n  use a text.")
