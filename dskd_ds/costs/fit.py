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

    On a CPU all ranks of the launch are taken to share one node. num_senses: of the dictionary.
    """
    device = device_of(capacity)
    student = student_memory(spec, shapes, device, related_fraction)
    teacher = teacher_memory(spec, shapes, device, related_fraction)
    node = node_memory(spec, shapes, num_senses)
    further = [
        further_teacher_memory(spec, shapes, device, index) for index in range(len(spec.teachers))
    ]
    num_students = spec.topology.num_students
    ranks_per_teacher = spec.topology.ranks_per_teacher
    num_teacher_ranks = spec.topology.num_teachers * ranks_per_teacher
    if device == "gpu":
        found = [Need("a student's GPU", student, capacity.gpu_bytes)]
        found.append(Need("a teacher's GPU", teacher, capacity.gpu_bytes))
        for entry, memory in zip(spec.teachers, further, strict=True):
            found.append(Need(f"a GPU of teacher {entry.name}", memory, capacity.gpu_bytes))
        per_node = min(num_students, max(capacity.num_gpus, 1))
        host = student.host_total * per_node + node.total
        if host:
            on_host = MemoryParts({**student.host, **node.parts}, "always")
            added = host - on_host.total
            found.append(Need("a node's main memory", on_host, capacity.host_bytes, added=added))
        return found
    others = node.total
    if spec.topology.num_teachers:
        num_own = spec.topology.num_teachers - spec.num_further_teachers
        others += teacher.total * num_own * ranks_per_teacher
        for entry, memory in zip(spec.teachers, further, strict=True):
            others += memory.total * entry.replicas * ranks_per_teacher
    added = others + PROCESS_BYTES * (num_students + num_teacher_ranks)
    what = "this machine, for all ranks"
    return [Need(what, student, capacity.host_bytes, count=num_students, added=added)]
