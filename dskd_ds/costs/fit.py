"""Whether a run fits into memory, and by how much it does not.

Loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from dskd_ds.costs.capacity import Capacity
from dskd_ds.costs.memory import (
    Device,
    MemoryParts,
    further_teacher_memory,
    node_memory,
    student_memory,
    teacher_memory,
)
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.spec import RunSpec

REFUSED_SHARE = 0.9
"""A run is refused if this share of the predicted memory exceeds the capacity. The prediction's
error is about ten per cent; between this and 1 there is a warning."""
PROCESS_BYTES = 300 << 20
"""Resident memory of a rank on a CPU before its engine: Python, torch and DeepSpeed, without the
pages that the ranks of a node share."""


@dataclass(frozen=True)
class Need:
    """What a rank or a node needs, and what it has."""

    what: str
    memory: MemoryParts
    capacity: float
    """Bytes."""
    count: int = 1
    """How many ranks share the capacity."""
    added: float = 0.0
    """Bytes that are needed beside `memory`, for all ranks together."""

    @property
    def needed(self) -> float:
        """Predicted bytes."""
        return self.memory.total * self.count + self.added

    @property
    def is_refused(self) -> bool:
        """Whether the run would very likely fail."""
        return self.needed * REFUSED_SHARE > self.capacity

    @property
    def is_tight(self) -> bool:
        """Whether the run may fail."""
        return self.needed > self.capacity


def device_of(capacity: Capacity) -> Device:
    """Return where the ranks compute."""
    return "gpu" if capacity.gpu_bytes else "cpu"


def needs(
    spec: RunSpec,
    shapes: RunShapes,
    capacity: Capacity,
    related_fraction: float | None = None,
    num_senses: int | None = None,
) -> list[Need]:
    """Return what the ranks need and have: per GPU, or per node if ranks have no GPU.

    On a CPU all ranks of the launch are taken to share one node. On this machine, ranks may share a
    GPU. num_senses: of the dictionary.
    """
    device = device_of(capacity)
    student = student_memory(spec, shapes, device, related_fraction)
    teachers = _teachers(spec, shapes, device, related_fraction)
    node = node_memory(spec, shapes, num_senses)
    num_students, num_gpus = spec.topology.num_students, capacity.num_gpus
    if device == "cpu":
        held = [memory.total for memory in _teacher_ranks(spec, teachers)]
        added = node.total + sum(held) + PROCESS_BYTES * (num_students + len(held))
        what = "this machine, for all ranks"
        return [Need(what, student, capacity.host_bytes, count=num_students, added=added)]
    if capacity.is_only_node and spec.topology.num_ranks > num_gpus:
        found = [_fullest_gpu(spec, student, _teacher_ranks(spec, teachers), capacity)]
        per_node = num_students
    else:
        found = [Need("a student's GPU", student, capacity.gpu_bytes)]
        # Without num_teachers, teachers are a job step of their own: not on this machine.
        if spec.topology.num_teachers or not capacity.is_only_node:
            found += [Need(what, memory, capacity.gpu_bytes) for what, memory in teachers.items()]
        per_node = min(num_students, max(num_gpus, 1))
    host = student.host_total * per_node + node.total
    if host:
        on_host = MemoryParts({**student.host, **node.parts}, "always")
        added = host - on_host.total
        found.append(Need("a node's main memory", on_host, capacity.host_bytes, added=added))
    return found


def _teachers(
    spec: RunSpec, shapes: RunShapes, device: Device, related_fraction: float | None
) -> dict[str, MemoryParts]:
    """Return the memory of a rank of each teacher that a run asks: [teacher], then [[teachers]]."""
    if not spec.asks_teachers:
        return {}
    found = {"a teacher's GPU": teacher_memory(spec, shapes, device, related_fraction)}
    for index, entry in enumerate(spec.teachers):
        memory = further_teacher_memory(spec, shapes, device, index)
        found[f"a GPU of teacher {entry.name}"] = memory
    return found


def _teacher_ranks(spec: RunSpec, teachers: dict[str, MemoryParts]) -> list[MemoryParts]:
    """Return the memory of each teacher rank of the launch, in the order of the ranks.

    The first teachers are those of [[teachers]] (spec/teachers.py).
    """
    if not teachers or not spec.topology.num_teachers:
        return []
    own, *further = teachers.values()
    replicas = zip(spec.teachers, further, strict=True)
    found = [memory for entry, memory in replicas for _ in range(entry.replicas)]
    found += [own] * (spec.topology.num_teachers - spec.num_further_teachers)
    return [memory for memory in found for _ in range(spec.topology.ranks_per_teacher)]


def _fullest_gpu(
    spec: RunSpec, student: MemoryParts, teacher_ranks: list[MemoryParts], capacity: Capacity
) -> Need:
    """Return what the ranks need that share a GPU, of the GPU whose ranks need most.

    Rank r of a node computes on GPU r modulo their number (runtime/devices.py); students come
    first.
    """
    ranks = [student] * spec.topology.num_students + teacher_ranks
    shared = [ranks[gpu :: capacity.num_gpus] for gpu in range(capacity.num_gpus)]
    fullest = max(shared, key=_total)
    num_students = sum(memory is student for memory in fullest)
    # The parts are shown of one kind of rank: of the students, if there are any.
    count = max(num_students, 1)
    what = f"a GPU that {len(fullest)} of the {len(ranks)} ranks share"
    return Need(
        what,
        fullest[0],
        capacity.gpu_bytes,
        count=count,
        added=_total(fullest[count:]),
    )


def _total(ranks: list[MemoryParts]) -> float:
    return sum(memory.total for memory in ranks)
