"""Nodes of a run, from the numbers of its ranks."""

from __future__ import annotations

import pytest

from dskd_ds.errors import InputError
from dskd_ds.plan.allocation import Allocation, allocate, teachers_of_node
from dskd_ds.spec import RunSpec, load_spec


def spec(students: int, teachers: int) -> RunSpec:
    overrides = [
        f"topology.num_students={students}",
        f"topology.num_teachers={teachers}",
        f"train.global_batch_blocks={students}",
        "train.micro_batch_blocks=1",
    ]
    return load_spec("tests/base_run.toml", overrides)


def test_teachers_get_nodes_of_their_own() -> None:
    found = allocate(spec(32, 9), ranks_per_node=8)
    assert found == Allocation(
        num_students=32,
        num_student_nodes=4,
        students_per_node=8,
        num_teachers=9,
        num_teacher_nodes=2,
        teachers_per_node=8,
    )
    assert (found.num_nodes, found.tasks_per_node) == (6, 8)


def test_what_fits_on_one_node_shares_it() -> None:
    found = allocate(spec(6, 2), ranks_per_node=8)
    assert (found.num_nodes, found.num_teacher_nodes, found.tasks_per_node) == (1, 0, 8)


def test_a_heterogeneous_job_never_shares() -> None:
    found = allocate(spec(6, 2), ranks_per_node=8, have_own_nodes=True)
    assert (found.num_student_nodes, found.num_teacher_nodes) == (1, 1)


def test_fewer_teachers_than_ranks_per_node() -> None:
    found = allocate(spec(8, 4), ranks_per_node=8, teachers_per_node=1)
    assert (found.num_teacher_nodes, found.teachers_per_node, found.tasks_per_node) == (4, 1, 8)


def test_teachers_as_a_step_of_their_own_must_be_counted() -> None:
    with pytest.raises(InputError, match="--num-teachers N"):
        allocate(spec(8, 0), ranks_per_node=8)
    assert allocate(spec(8, 0), ranks_per_node=8, num_teachers=3).num_teachers == 3


def test_a_run_from_the_cache_alone_needs_no_teachers() -> None:
    tree = spec(12, 0)
    cached = tree.model_copy(
        update={"teacher": tree.teacher.model_copy(update={"source": "cache"})}
    )
    found = allocate(cached, ranks_per_node=8)
    assert (found.num_student_nodes, found.num_teacher_nodes, found.num_nodes) == (2, 0, 2)
    assert (found.num_students, found.num_teachers) == (12, 0)


def divided(students: int, teachers: int, ranks_per_teacher: int) -> RunSpec:
    """Return a spec whose teachers have several ranks each."""
    plain = spec(students, teachers)
    topology = plain.topology.model_copy(update={"ranks_per_teacher": ranks_per_teacher})
    return plain.model_copy(update={"topology": topology})


def test_the_ranks_of_a_teacher_stay_on_one_node() -> None:
    """Two teachers of three ranks fit on a node of eight; the last two ranks stay free."""
    found = allocate(divided(8, 5, 3), ranks_per_node=8)
    assert (found.num_teacher_nodes, found.teachers_per_node) == (3, 2)
    assert (found.teacher_tasks_per_node, found.tasks_per_node) == (6, 8)


def test_a_divided_teacher_may_share_the_node_of_the_students() -> None:
    found = allocate(divided(4, 1, 4), ranks_per_node=8)
    assert (found.num_nodes, found.num_teacher_nodes, found.tasks_per_node) == (1, 0, 8)
    assert allocate(divided(5, 1, 4), ranks_per_node=8).num_teacher_nodes == 1


def test_a_teacher_that_no_node_holds_is_refused() -> None:
    with pytest.raises(InputError, match="ranks_per_teacher = 16, but a node has 8 ranks"):
        allocate(divided(8, 1, 16), ranks_per_node=8)
    with pytest.raises(InputError, match="ranks_per_teacher = 8, but a node has 4 ranks"):
        allocate(divided(8, 1, 8), ranks_per_node=4, teachers_per_node=1)


def test_a_node_gets_no_more_teachers_than_fit() -> None:
    with pytest.raises(InputError, match="--teachers-per-node 3: a node has ranks for 2"):
        allocate(divided(8, 4, 2), ranks_per_node=4, teachers_per_node=3)
    larger = allocate(
        divided(8, 4, 2), ranks_per_node=4, teachers_per_node=3, most_teachers_per_node=4
    )
    assert (larger.num_teacher_nodes, larger.teachers_per_node) == (2, 3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"gpus-per-node": "4"}, 2),
        ({"gpus-per-node": "a100:4"}, 2),
        ({"gpus-per-node": "a100:4,v100:2"}, None),
        ({"gpus-per-node": "8", "ntasks-per-node": "3"}, 1),
    ],
)
def test_the_size_of_a_node_of_teachers(options: dict[str, str], expected: int | None) -> None:
    assert teachers_of_node(options, divided(8, 4, 2)) == expected
