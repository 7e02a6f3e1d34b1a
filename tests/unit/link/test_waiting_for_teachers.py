"""How long students wait for a teacher, and what they say in the end. In simulated time."""

from __future__ import annotations

import math

import pytest

from dskd_ds.errors import NoTeacherError
from dskd_ds.spec.processes import LinkSpec
from tests.unit.link.network import Faults
from tests.unit.link.simulation import World

WAIT_SECONDS = 100.0
SPEC = LinkSpec(teacher_wait_seconds=WAIT_SECONDS, student_wait_seconds=1e6)
NUM_REQUESTS = 5


def world_of(num_requests: int) -> World:
    return World(0, Faults(), SPEC, num_students=1, num_requests=num_requests)


def pass_time(world: World, seconds: float) -> None:
    """Let time pass, in which everybody gets a turn each second."""
    end = world.now + seconds
    while world.now < end:
        world.step(1.0)


def test_a_first_teacher_is_waited_for_from_the_first_request_on() -> None:
    world = world_of(NUM_REQUESTS)
    pass_time(world, WAIT_SECONDS - 2.0)
    with pytest.raises(NoTeacherError, match=r"within 100 s(.|\n)*\[link\] teacher_wait_seconds"):
        pass_time(world, 5.0)


def test_a_student_that_asks_nothing_waits_without_end() -> None:
    """All from a cache for an hour: then the first miss finds a teacher that came meanwhile."""
    world = world_of(0)
    pass_time(world, 3600.0)
    world.add_teacher("late")
    world.students[0].num_requests = NUM_REQUESTS
    world.run()
    assert world.students[0].protocol.num_open == 0


def test_the_wait_begins_with_the_request_and_not_when_the_last_teacher_left() -> None:
    world = world_of(NUM_REQUESTS)
    teacher = world.add_teacher("first")
    world.run()
    world.kill(teacher)
    pass_time(world, 3600.0)
    world.students[0].num_requests = 2 * NUM_REQUESTS
    pass_time(world, WAIT_SECONDS - 2.0)
    with pytest.raises(NoTeacherError):
        pass_time(world, 5.0)


def test_the_error_names_the_deadline_of_an_only_teacher_that_was_too_slow() -> None:
    """For example one that compiles during its first request."""
    world = world_of(NUM_REQUESTS)
    world.add_teacher("slow").busy_until = math.inf
    expected = r"teacher slow: has answered nothing for 60 s.*raise \[link\] deadline_seconds"
    with pytest.raises(NoTeacherError, match=expected):
        pass_time(world, 60.0 + 2 * WAIT_SECONDS)
