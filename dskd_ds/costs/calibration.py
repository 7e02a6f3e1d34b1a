"""The speeds of this machine, which `dskd bench calibrate` measures, and where they are kept.

Loads no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from dskd_ds.costs.capacity import gpu_memory_bytes
from dskd_ds.costs.clusters import Cluster
from dskd_ds.costs.constants import DEFAULT, Constants
from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_json
from dskd_ds.runtime.cpu_features import cpu_name, num_usable_cores
from dskd_ds.spec import dskd_home

FILE = "calibration.json"
VERSION = 1


@dataclass(frozen=True)
class Measured:
    """What `dskd bench calibrate` measures; speeds are of one rank with one thread."""

    flops_per_second: float
    """Of matrix products as in a student's layers, forward and backward, in float32 or in bfloat16
    where `auto` means that."""
    memory_bandwidth: float
    """Bytes per second of elementwise work, counting what is read and written."""
    traffic_eager: float
    """What lies between a layer's matrix products, as a multiple of the least traffic."""
    head_passes: float
    """Reads and writes of a chunk's logits in the student's objective."""
    teacher_head_passes: float
    """The same where a teacher takes the top k."""
    all_reduce_bandwidth: float
    """Bytes per second of each rank in a collective of this machine's ranks."""
    hop_seconds: float
    """Latency of a collective."""
    disk_write_bandwidth: float
    num_ranks: int
    """Ranks that were measured together: a machine's cores share its memory bandwidth."""
    cpu: str
    """Name of the CPU."""
    num_cores: int
    memory_bytes: int


@dataclass(frozen=True)
class Calibration:
    """This machine as a cluster of one node, and the constants of its times."""

    measured: Measured
    cluster: Cluster
    constants: Constants


def calibration_file() -> Path:
    """Return where the measured speeds are kept."""
    return dskd_home() / FILE


def write_calibration(measured: Measured) -> Path:
    """Store the measured speeds, and return the file."""
    path = calibration_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"version": VERSION, **asdict(measured)}, indent=1)
    return path


def read_calibration() -> Calibration | None:
    """Return the stored speeds; None if there are none, or of another version.

    Raises InputError if the file cannot be read.
    """
    path = calibration_file()
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("version", None) != VERSION:
            return None
        names = {field.name for field in fields(Measured)}
        measured = Measured(**{name: content[name] for name in names})
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"{path}: the speeds of this machine cannot be read: {error}.\n"
            "  measure them again: dskd bench calibrate"
        ) from None
    return Calibration(measured, cluster_of(measured), constants_of(measured))


def calibration_here() -> tuple[Calibration | None, str]:
    """Return the stored speeds if they hold for runs on this machine; else None, and the reason.

    Raises InputError as `read_calibration` does.
    """
    if gpu_memory_bytes():
        return None, "`dskd bench calibrate` measures machines without GPUs; name a --cluster"
    found = read_calibration()
    if found is None:
        return None, "`dskd bench calibrate` measures this machine, or name a --cluster"
    measured, cpu, num_cores = found.measured, cpu_name(), num_usable_cores()
    if (measured.cpu, measured.num_cores) != (cpu, num_cores):
        return None, (
            f"`dskd bench calibrate` measured {measured.num_cores} cores of {measured.cpu}, and"
            f" this process has {num_cores} of {cpu}; measure again, or name a --cluster"
        )
    return found, ""


def cluster_of(measured: Measured) -> Cluster:
    """Return a machine without GPUs as a cluster of one node."""
    return Cluster(
        name="this machine",
        gpu=measured.cpu,
        architecture="measured",
        memory_bytes=measured.memory_bytes,
        flops_per_second=measured.flops_per_second,
        memory_bandwidth=measured.memory_bandwidth,
        gpus_per_node=max(measured.num_cores, 1),
        node_bandwidth=measured.all_reduce_bandwidth,
        network_bandwidth=measured.all_reduce_bandwidth,
        cpu_cores_per_node=measured.num_cores,
        node_memory_bytes=measured.memory_bytes,
        disk_read_bandwidth=measured.disk_write_bandwidth,
        disk_write_bandwidth=measured.disk_write_bandwidth,
        disk_total_write_bandwidth=measured.disk_write_bandwidth,
        sources=("measured by `dskd bench calibrate`",),
    )


def constants_of(measured: Measured) -> Constants:
    """Return the constants of the times, with those that were measured."""
    return replace(
        DEFAULT,
        traffic_eager=measured.traffic_eager,
        head_passes=measured.head_passes,
        teacher_head_passes=measured.teacher_head_passes,
        collective_efficiency=1.0,
        hop_seconds=measured.hop_seconds,
    )
