"""Every sample comes once and in order, whatever the network and the teachers do.

Most tests run in simulated time: thousands of seconds pass in one, and its seed decides everything.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from dskd_ds.errors import NoTeacherError
from dskd_ds.link import StudentLink, TeacherLink, zeromq
from dskd_ds.spec.processes import LinkSpec
from tests.seeds import seeds
from tests.unit.link.network import Faults, Unreliable
from tests.unit.link.simulation import Student, World
from tests.unit.link.test_link import ARRAYS, QUICK, WANTED, hello, serve

pytestmark = pytest.mark.fault
SPEC = LinkSpec(deadline_seconds=600.0, teacher_wait_seconds=600.0, student_wait_seconds=600.0)
RELIABLE = Faults()
UNRELIABLE = Faults(drop=0.15, repeat=0.2, delay=0.3, longest_delay=5.0)
NUM_REQUESTS = 40


def world_of(seed: int, faults: Faults, spec: LinkSpec = SPEC) -> World:
    return World(seed, faults, spec, num_students=2, num_requests=NUM_REQUESTS)


def check(world: World) -> None:
    """Everything was consumed once and in order, and the ledgers are empty."""
    for student in world.students:
        assert student.consumed == student.expected
        assert student.protocol.num_open == 0


@pytest.mark.parametrize("seed", seeds(in_ci=4, in_soak=200))
def test_every_sample_comes_once_and_in_order(seed: int) -> None:
    world = world_of(seed, UNRELIABLE)
    world.add_teacher("a")
    world.add_teacher("b", forward_seconds=5.0)  # ten times slower
    world.run()
    check(world)
    for kind in ("num_dropped", "num_repeated", "num_late"):
        assert sum(getattr(proxy, kind) for proxy in world.proxies) > 10, kind


@pytest.mark.parametrize("seed", seeds(in_ci=4, in_soak=200))
def test_teachers_that_die_freeze_and_come_cost_only_what_they_held(seed: int) -> None:
    world = world_of(seed, UNRELIABLE if seed % 2 else RELIABLE)
    world.add_teacher("0")
    num_teachers, end = 1, 20_000.0
    while not world.is_done:
        world.step()
        assert world.now < end
        if world.draw.random() < 0.02:
            world.add_teacher(str(num_teachers))
            num_teachers += 1
        elif world.draw.random() < 0.02 and world.teachers:
            world.kill(world.draw.choice(world.teachers))
        elif world.draw.random() < 0.02 and world.teachers:
            world.draw.choice(world.teachers).frozen_until = world.now + 15.0
    check(world)


def test_without_faults_nothing_is_computed_twice() -> None:
    world = world_of(0, RELIABLE)
    teachers = [world.add_teacher("a"), world.add_teacher("b", forward_seconds=5.0)]
    world.run()
    check(world)
    assert sum(teacher.num_computed for teacher in teachers) == 2 * NUM_REQUESTS


def test_a_killed_teacher_costs_at_most_what_was_in_flight() -> None:
    """One teacher at a time, killed and replaced every 20 s for three minutes."""
    spec = SPEC.model_copy(update={"credits": 3})
    world = World(1, RELIABLE, spec, num_students=2, num_requests=400)
    num_killed = 0
    teachers = [world.add_teacher("0")]
    while not world.is_done:
        world.step()
        if world.now > 20.0 * (num_killed + 1) and world.now < 180.0:
            world.kill(teachers[-1])
            num_killed += 1
            teachers.append(world.add_teacher(str(num_killed)))
    check(world)
    assert num_killed == 8
    num_computed = sum(teacher.num_computed for teacher in teachers)
    assert 800 <= num_computed <= 800 + num_killed * 2 * spec.credits


def test_buffers_are_bounded_by_credits_on_both_sides() -> None:
    """Students ask for all at once; teachers are slow; then the students stop reading."""
    request_and_reply = 4000
    spec = SPEC.model_copy(update={"credits": 1000, "credit_bytes": 3 * request_and_reply})
    world = world_of(3, RELIABLE, spec)
    for student in world.students:
        student.num_sent = student.num_requests
        student.pending.extend(
            student.jobs.add(ARRAYS, WANTED, request_and_reply) for _ in range(NUM_REQUESTS)
        )
    teachers = [world.add_teacher("a", 0.01), world.add_teacher("b", 0.01)]
    for _ in range(4):
        world.step()  # hello, welcome, requests
    assert all(0 < len(teacher.queue) <= 2 * 3 for teacher in teachers)
    assert all(len(student.pending) > NUM_REQUESTS // 2 for student in world.students)
    for _ in range(20):  # the students stand still while replies and heartbeats come
        world.now += 0.25
        for teacher in teachers:
            teacher.turn()
    for student in world.students:
        replies = [item for item in student.listener.inbox if len(item.frames) > 2]
        assert 0 < len(replies) <= 2 * 3
        num_bytes = sum(len(frame) for item in replies for frame in item.frames)
        assert num_bytes <= 2 * spec.credit_bytes
    assert not any(teacher.queue for teacher in teachers)


@pytest.mark.parametrize("is_coming_back", [True, False])
def test_a_teacher_outlives_a_student_that_comes_back(is_coming_back: bool) -> None:
    world = world_of(4, RELIABLE)
    teacher = world.add_teacher("a")
    world.run()
    for student in world.students:
        student.protocol.say_goodbye(is_coming_back)
    for _ in range(100):
        teacher.turn()
        world.now += 0.25
    assert teacher.protocol.is_finished is not is_coming_back
    world.students = [Student(world, rank, NUM_REQUESTS) for rank in range(2)]
    if is_coming_back:
        world.run()
        check(world)
        assert teacher.num_computed == 4 * NUM_REQUESTS


def test_a_teacher_of_the_launch_ends_although_the_students_come_back() -> None:
    world = world_of(4, RELIABLE)
    teacher = world.add_teacher("a", waits_for_restart=False)
    world.run()
    for student in world.students:
        student.protocol.say_goodbye(is_coming_back=True)
    teacher.turn()
    assert teacher.protocol.is_finished


@pytest.mark.parametrize("is_goodbye", [True, False])
def test_a_teacher_that_is_to_stop_serves_its_students_to_their_end(is_goodbye: bool) -> None:
    """They say goodbye, or are killed."""
    world = world_of(4, RELIABLE)
    teacher = world.add_teacher("a", waits_for_restart=False)
    for _ in range(4):
        world.step()  # hello, welcome, requests
    teacher.is_stop_wanted = True
    world.run()
    check(world)
    assert not teacher.protocol.is_finished
    ended = world.now
    for student in world.students:
        if is_goodbye:
            student.protocol.say_goodbye(is_coming_back=True)
        else:
            student.listener.close()
    while not teacher.protocol.is_finished:
        teacher.turn()
        world.now += 0.25
    assert world.now - ended <= (1.0 if is_goodbye else world.spec.dead_after_seconds + 2.0)


def test_without_students_a_teacher_that_is_to_stop_ends_at_once() -> None:
    world = world_of(4, RELIABLE)
    world.students = []
    teacher = world.add_teacher("a", waits_for_restart=False)
    teacher.is_stop_wanted = True
    teacher.turn()
    assert teacher.protocol.is_finished


def test_a_hung_teacher_is_noticed_at_its_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    """It holds requests and sends heartbeats for ever; the other one waits for its turn."""
    spec = SPEC.model_copy(update={"deadline_seconds": 60.0})
    world = world_of(7, RELIABLE, spec)
    hung = world.add_teacher("hung", forward_seconds=1e9)
    hung.busy_until = 1e9
    for _ in range(8):
        world.step()
    assert hung.queue
    world.add_teacher("good")
    started = world.now
    world.run()
    check(world)
    assert world.now - started <= 60.0 + 2 * NUM_REQUESTS * 0.5 + 5.0
    assert "teacher hung has answered nothing for 60 s, but is alive" in capsys.readouterr().err


def test_a_teacher_learns_how_many_students_there_are_now() -> None:
    """The run goes on with one student instead of two."""
    world = world_of(5, RELIABLE)
    teacher = world.add_teacher("a")
    world.run()
    for student in world.students:
        student.protocol.say_goodbye(is_coming_back=True)
    world.num_students = 1
    world.students = [Student(world, 0, NUM_REQUESTS)]
    world.run()
    world.students[0].protocol.say_goodbye(is_coming_back=False)
    teacher.turn()
    assert teacher.protocol.is_finished


def test_a_teacher_waits_for_students_only_so_long() -> None:
    world = world_of(6, RELIABLE)
    teacher = world.add_teacher("a")
    world.run()
    for student in world.students:
        student.protocol.say_goodbye(is_coming_back=True)
    waited_since = world.now
    while world.now < waited_since + 599.0:
        teacher.turn()
        world.now += 1.0
    world.now += 5.0
    with pytest.raises(NoTeacherError, match=r"for 600 s(.|\n)*\[link\] student_wait_seconds"):
        teacher.turn()


def test_the_same_over_real_sockets(tmp_path: Path) -> None:
    """Two threads each, ZeroMQ between them, and the proxy in front of both transports."""
    spec = QUICK.model_copy(update={"deadline_seconds": 300.0, "credits": 4})
    faults = Faults(drop=0.05, repeat=0.2, delay=0.3, longest_delay=0.05)
    draws = random.Random(1)

    def proxy(transport: object) -> Unreliable:
        return Unreliable(transport, faults, random.Random(draws.random()), time.monotonic)

    student = StudentLink(
        tmp_path, 0, spec, 9, 4, open_listener=lambda *args: proxy(zeromq.open_listener(*args))
    )
    teacher = TeacherLink(
        tmp_path, spec, hello("a"), 1, open_dialer=lambda spec: proxy(zeromq.open_dialer(spec))
    )
    serve(teacher, 7)
    futures = [student.submit(ARRAYS, WANTED) for _ in range(60)]
    for future in futures:
        assert (future.result(200).arrays["top_k_ids"] == 7).all()
    student.close()
    teacher.close()
