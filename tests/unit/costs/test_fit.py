"""Which ranks need memory where, on a cluster and on this machine."""

from __future__ import annotations

import pytest

from dskd_ds.costs.capacity import Capacity
from dskd_ds.costs.fit import needs
from dskd_ds.costs.memory import student_memory, teacher_memory
from tests.unit.costs.test_memory import SHAPES, spec_with

A_CLUSTER = Capacity(80 * 10**9, num_gpus=8, host_bytes=2 * 10**12, source="a cluster")
CACHED = ("teacher.source=cache", "topology.num_teachers=0")


def this_machine(num_gpus: int) -> Capacity:
    """Return one node with some GPUs of 80 GB."""
    return Capacity(80 * 10**9, num_gpus, 2 * 10**12, source="a test", is_only_node=True)


def whats(*overrides: str, capacity: Capacity) -> list[str]:
    """Return what needs memory, without main memory."""
    found = needs(spec_with(*overrides), SHAPES, capacity, related_fraction=0.5)
    return [need.what for need in found if "main memory" not in need.what]


def test_a_run_that_reads_a_cache_needs_no_teachers_gpu() -> None:
    assert whats(capacity=A_CLUSTER) == ["a student's GPU", "a teacher's GPU"]
    assert whats(*CACHED, capacity=A_CLUSTER) == ["a student's GPU"]


def test_teachers_of_a_job_step_of_their_own_are_not_on_this_machine() -> None:
    assert whats("topology.num_teachers=0", capacity=this_machine(8)) == ["a student's GPU"]
    assert "a teacher's GPU" in whats("topology.num_teachers=0", capacity=A_CLUSTER)


def test_ranks_that_share_a_gpu_add_up() -> None:
    """As `dskd init` divides a machine with one GPU: a student and a teacher share it."""
    spec = spec_with("topology.num_students=1", "deepspeed=ds_configs/zero0.json")
    shared = needs(spec, SHAPES, this_machine(1), related_fraction=0.5)[0]
    student = student_memory(spec, SHAPES, "gpu", 0.5).total
    teacher = teacher_memory(spec, SHAPES, "gpu", 0.5).total
    assert shared.what == "a GPU that 2 of the 2 ranks share"
    assert shared.needed == pytest.approx(student + teacher)

    assert whats("topology.num_students=1", capacity=this_machine(2)) == [
        "a student's GPU",
        "a teacher's GPU",
    ]


def test_the_gpu_with_the_largest_ranks_counts() -> None:
    """Five ranks on two GPUs: ranks 0, 2 and 4 on the first, of which rank 4 is the teacher."""
    spec = spec_with("topology.num_students=4", "train.global_batch_blocks=4")
    shared = needs(spec, SHAPES, this_machine(2), related_fraction=0.5)[0]
    student = student_memory(spec, SHAPES, "gpu", 0.5).total
    teacher = teacher_memory(spec, SHAPES, "gpu", 0.5).total
    assert shared.what == "a GPU that 3 of the 5 ranks share"
    assert (shared.count, shared.added) == (2, teacher)
    assert shared.needed == pytest.approx(2 * student + teacher)


def test_all_ranks_of_this_machine_keep_their_offloaded_state_in_its_memory() -> None:
    offloaded = ("deepspeed=ds_configs/zero3_offload.json", "topology.num_students=4")
    spec = spec_with(*offloaded, "train.global_batch_blocks=4", "loss.sense_weight=0")
    host = needs(spec, SHAPES, this_machine(2), related_fraction=0.5)[-1]
    assert host.what == "a node's main memory"
    assert host.needed == pytest.approx(4 * student_memory(spec, SHAPES, "gpu", 0.5).host_total)
