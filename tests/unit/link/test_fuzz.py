"""Hostile messages: no crash, no code that runs, no memory bomb, and the sender is named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dskd_ds.errors import LinkError
from dskd_ds.link import codec
from dskd_ds.link.messages import KINDS
from dskd_ds.spec.processes import LinkSpec
from tests.seeds import count
from tests.unit.link.fuzz import Fuzzer
from tests.unit.link.network import Faults
from tests.unit.link.simulation import World
from tests.unit.link.test_link import hello

pytestmark = pytest.mark.fault
NUM_MESSAGES = count(in_ci=10_000, in_soak=100_000)
MOST_BYTES = 16 << 20
"""Bound of the memory that any number of hostile messages may take."""
SPEC = LinkSpec(deadline_seconds=60.0, teacher_wait_seconds=600.0, student_wait_seconds=600.0)


@pytest.fixture
def fuzzer(tmp_path: Path) -> Iterator[Fuzzer]:
    """A source of hostile messages; fails if one of their pickles was loaded."""
    exploded = tmp_path / "exploded"
    yield Fuzzer(0, exploded)
    assert not exploded.exists()


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """Fails if the test takes more than MOST_BYTES at any time."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_BYTES


def outcome_of(frames: list[bytes]) -> str:
    """Decode a message; return its class, or the reason why it is refused."""
    try:
        message, arrays = codec.decode(frames, "teacher seven")
    except LinkError as error:
        return str(error)
    # Views of the frames: a message cannot claim more than it brought.
    assert all(array.base is not None for array in arrays.values() if array.size)
    return type(message).__name__


@pytest.mark.usefixtures("bounded_memory")
def test_every_message_decodes_or_is_refused_by_name(fuzzer: Fuzzer) -> None:
    num_refused, decoded = 0, set()
    for _ in range(NUM_MESSAGES):
        outcome = outcome_of(fuzzer.message())
        if outcome.startswith("teacher seven sent a message that cannot be read: "):
            num_refused += 1
            # What a peer sent is quoted, but shortened, and without control characters.
            assert len(outcome) < 1000
            assert outcome.replace("\n", "").isprintable()
        else:
            decoded.add(outcome)
    assert num_refused > NUM_MESSAGES / 2
    # All classes came through, so the fuzzer reaches what lies behind the codec.
    assert decoded == {model.__name__ for model in KINDS.values()}


@pytest.mark.slow
@pytest.mark.usefixtures("bounded_memory")
def test_a_student_serves_on_while_hostile_peers_write_to_it(
    fuzzer: Fuzzer, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(0, Faults(), SPEC, num_students=1, num_requests=NUM_MESSAGES // 250)
    world.add_teacher("good")
    world.step()
    world.step()
    (student,) = world.students
    dialer = world.network.dialer()
    attacker = dialer.connect(student.listener.endpoint)
    for index in range(NUM_MESSAGES):
        if index % 20 == 0:
            attacker = dialer.connect(student.listener.endpoint)
        student.listener.deliver(attacker, fuzzer.message())
        if index % 50 == 0:
            world.step()
            dialer.inbox.clear()
    world.run()
    assert student.consumed == student.expected
    printed = capsys.readouterr().err
    assert "teacher hostile" in printed  # admitted, then banned
    assert "ignored an unnamed peer" in printed
    assert printed.count("ignored") <= 100
    assert "no more such messages are reported" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("bounded_memory")
def test_a_teacher_serves_on_while_a_hostile_student_writes_to_it(
    fuzzer: Fuzzer, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(0, Faults(), SPEC, num_students=1, num_requests=NUM_MESSAGES // 250)
    hostile = world.network.listener()
    world.strangers[1] = hostile.endpoint
    teacher = world.add_teacher("a")
    num_sent = 0
    while num_sent < NUM_MESSAGES:
        # Most messages end the session, and the teacher says hello again at its next heartbeat;
        # after a valid goodbye it does so only to another student.
        if not hostile.peers:
            hostile = world.network.listener()
            world.strangers[1] = hostile.endpoint
        for peer in hostile.peers:
            teacher.dialer.deliver(peer, fuzzer.message())
            num_sent += 1
        hostile.inbox.clear()
        world.step(SPEC.heartbeat_seconds)
    world.run()
    (student,) = world.students
    assert student.consumed == student.expected
    printed = capsys.readouterr().err
    assert "student 1 at memory://" in printed
    assert printed.count("\n") < 1000


def test_a_replayed_hello_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A copy over the same connection, one over another, and one of an earlier session."""
    world = World(0, Faults(), SPEC, num_students=1, num_requests=50)
    teacher = world.add_teacher("good")
    for _ in range(4):
        world.step()
    (student,) = world.students
    (peer,) = student.listener.peers
    attacker = world.network.dialer().connect(student.listener.endpoint)
    first = hello("good").model_copy(update={"credit_requests": 9})
    while not world.is_done:
        for sender in (peer, attacker):
            student.listener.deliver(sender, codec.encode(first))
        world.step()
    assert student.consumed == student.expected
    assert teacher.num_computed == 50
    assert "ignored a copy of an earlier hello of teacher good" in capsys.readouterr().err
