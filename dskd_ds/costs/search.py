"""Finds the fastest split of a fixed number of GPUs into students and teachers. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from dskd_ds.costs.clusters import Cluster
from dskd_ds.costs.constants import DEFAULT, Constants
from dskd_ds.costs.dictionary_size import num_senses
from dskd_ds.costs.fit import needs
from dskd_ds.costs.plan import Speed, capacity_of, run_speed
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.costs.ways_out import is_valid
from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec

LARGEST_MICRO_BATCH = 64
"""Most blocks per micro-batch that are tried, in powers of two."""


@dataclass(frozen=True)
class Split:
    """One way to use the GPUs."""

    num_students: int
    num_teachers: int
    micro_batch_blocks: int
    speed: Speed
    student_bytes: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all students per second."""
        return self.speed.step.tokens_per_second


def best_splits(
    spec: RunSpec,
    shapes: RunShapes,
    cluster: Cluster,
    num_gpus: int,
    constants: Constants = DEFAULT,
    count: int = 5,
) -> list[Split]:
    """Return the fastest splits that fit, the best first.

    The spec's global batch is kept, so that all of them train the same: only numbers of students
    and micro-batches that divide it are tried. A split that the run would refuse is left out.
    Raises InputError if no split fits, or if the run asks no teacher.
    """
    if not spec.asks_teachers:
        raise InputError(
            '--search: [teacher] source = "cache", so all GPUs are students, and there is nothing'
            " to split.\n"
            f"  set [topology] num_students = {num_gpus}, and plan this run without --search."
        )
    found: list[Split] = []
    total = spec.train.global_batch_blocks
    for num_students in range(1, num_gpus):
        num_teachers = _most_teachers(spec, num_students, num_gpus, cluster.gpus_per_node)
        if num_teachers <= spec.num_further_teachers:
            break  # [teacher] needs one besides
        micro_batch = 1
        while micro_batch <= LARGEST_MICRO_BATCH:
            if total % (micro_batch * num_students) == 0:
                changed = _with_split(spec, num_students, num_teachers, micro_batch)
                split = _split_of(changed, shapes, cluster, constants)
                found += [split] if split else []
            micro_batch *= 2
    if not found:
        raise InputError(
            f"no split of {num_gpus} GPUs of {cluster.name} fits this run.\n"
            "  use more GPUs, a smaller student, or [student] activation_checkpointing = true;"
            " `dskd plan` without --search says what does not fit."
        )
    found.sort(key=_slowness)
    return found[:count]


def _most_teachers(spec: RunSpec, num_students: int, num_gpus: int, gpus_per_node: int) -> int:
    """Return how many teachers the GPUs beside the students are enough for.

    On more than one node the teachers have nodes of their own, as plan/allocation.py gives them.
    """
    ranks_per_teacher = spec.topology.ranks_per_teacher
    num_teachers = (num_gpus - num_students) // ranks_per_teacher
    if num_gpus <= gpus_per_node:
        return num_teachers
    num_nodes, student_nodes = -(-num_gpus // gpus_per_node), -(-num_students // gpus_per_node)
    on_their_nodes = (num_nodes - student_nodes) * (gpus_per_node // ranks_per_teacher)
    return min(num_teachers, on_their_nodes)


def _with_split(spec: RunSpec, num_students: int, num_teachers: int, micro_batch: int) -> RunSpec:
    """Return the spec with other numbers of ranks and another micro-batch."""
    ranks = {"num_students": num_students, "num_teachers": num_teachers}
    return spec.model_copy(
        update={
            "topology": spec.topology.model_copy(update=ranks),
            "train": spec.train.model_copy(update={"micro_batch_blocks": micro_batch}),
        }
    )


def _split_of(
    spec: RunSpec, shapes: RunShapes, cluster: Cluster, constants: Constants
) -> Split | None:
    """Return a split with its speed; None if it is refused or does not fit into memory."""
    if not is_valid(spec):
        return None
    found = needs(spec, shapes, capacity_of(cluster), num_senses=num_senses(spec))
    if any(need.is_tight for need in found):
        return None
    return Split(
        num_students=spec.topology.num_students,
        num_teachers=spec.topology.num_teachers,
        micro_batch_blocks=spec.train.micro_batch_blocks,
        speed=run_speed(spec, shapes, cluster, constants),
        student_bytes=found[0].memory.total,
    )


def _slowness(split: Split) -> float:
    return -split.tokens_per_second
