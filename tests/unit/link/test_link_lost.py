"""Peers that fall silent, come back or are replaced: new hellos, and messages that are dropped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from dskd_ds.link import StudentLink, TeacherLink, codec, keys
from dskd_ds.link.messages import (
    Array,
    Bye,
    Hello,
    Message,
    Reply,
    Request,
    TeacherPing,
    Welcome,
    WhoAreYou,
)
from dskd_ds.spec.processes import LinkSpec
from tests.unit.link.test_link import ARRAYS, QUICK, WANTED, hello, reply_arrays, serve

OPEN = QUICK.model_copy(update={"encrypt": False})
PATIENT = QUICK.model_copy(update={"dead_after_seconds": 3600.0})
"""Too patient to notice, within a test, that the other side counts it as lost."""


class BareStudent:
    """A student's socket without a StudentLink: it sends only what a test sends."""

    def __init__(self, run_dir: Path) -> None:
        self.router = zmq.Context.instance().socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        keys.link_dir(run_dir).mkdir(parents=True, exist_ok=True)
        keys.publish_address(run_dir, 0, f"tcp://127.0.0.1:{port}")
        self.teacher = b""

    def receive(self) -> Message:
        """Return the next message that is no heartbeat, and remember its sender in `teacher`."""
        while True:
            assert self.router.poll(20_000), "no message came"
            self.teacher, *frames = self.router.recv_multipart()
            message, _ = codec.decode(frames, "teacher")
            if not isinstance(message, TeacherPing):
                return message

    def send(self, message: Message, arrays: dict[str, Array] | None = None) -> None:
        """Send a message to the teacher whose message was received last."""
        self.router.send_multipart([self.teacher, *codec.encode(message, arrays)])

    def welcome_teacher(self) -> None:
        """Receive a hello and answer it."""
        assert isinstance(self.receive(), Hello)
        self.send(Welcome(student="student 0", num_students=1))


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Callable[[], BareStudent]]:
    """bare() makes a BareStudent; a second call replaces the first, as a restart does."""
    made: list[BareStudent] = []

    def make() -> BareStudent:
        made.append(BareStudent(tmp_path))
        return made[-1]

    yield make
    for student in made:
        student.router.close()


def ask(student: BareStudent, request_id: int) -> None:
    student.send(Request(request_id=request_id, wanted=WANTED), ARRAYS)


def test_a_restarted_student_gets_no_replies_to_its_predecessor(
    tmp_path: Path, bare: Callable[[], BareStudent]
) -> None:
    before = bare()
    link = TeacherLink(tmp_path, OPEN, hello("a"), num_students=1)
    before.welcome_teacher()
    for request_id in (1, 2, 3):
        ask(before, request_id)
    taken = [link.next_request(), link.next_request()]
    after = bare()
    after.welcome_teacher()
    ask(after, 4)
    work = link.next_request()
    assert work is not None
    assert work.request.request_id == 4  # request 3 is dropped: no student waits for its reply
    for done in (*taken, work):
        assert done is not None
        link.reply(done, reply_arrays(1), 0.0)
    reply = after.receive()
    assert isinstance(reply, Reply)
    assert reply.request_id == 4
    link.close()


def test_a_student_that_does_not_answer_a_hello_gets_another(
    tmp_path: Path, bare: Callable[[], BareStudent]
) -> None:
    student = bare()
    link = TeacherLink(tmp_path, OPEN, hello("a"), num_students=1)
    assert isinstance(student.receive(), Hello)
    student.welcome_teacher()
    link.close()


def test_a_teacher_that_counts_as_lost_sends_one_hello(
    tmp_path: Path, bare: Callable[[], BareStudent]
) -> None:
    student = bare()
    spec = PATIENT.model_copy(update={"encrypt": False})
    link = TeacherLink(tmp_path, spec, hello("a"), num_students=1)
    student.welcome_teacher()
    for _ in range(3):
        student.send(WhoAreYou())
    student.welcome_teacher()
    ask(student, 1)
    serve(link, 5)
    assert isinstance(student.receive(), Reply)  # no second hello came before it
    student.send(Bye())
    link.close()


def run_teacher(run_dir: Path, spec: LinkSpec) -> None:
    """Serve in this process until the students say goodbye."""
    serve(TeacherLink(run_dir, spec, hello("stopped"), num_students=1), 6).join()


def test_a_stopped_teacher_serves_again_when_it_is_continued(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # On a busy machine the teacher process may need long to start.
    spec = QUICK.model_copy(update={"teacher_wait_seconds": 200.0})
    student = StudentLink(tmp_path, 0, spec, 9, 4)
    printed = ""
    process = multiprocessing.get_context("spawn").Process(
        target=run_teacher, args=(tmp_path, PATIENT), daemon=True
    )
    process.start()
    assert process.pid
    try:
        assert student.submit(ARRAYS, WANTED).result(200).teacher == "stopped"
        os.kill(process.pid, signal.SIGSTOP)
        future = student.submit(ARRAYS, WANTED)
        while "requests go to another" not in printed:
            time.sleep(0.02)
            printed += capfd.readouterr().err
        assert not future.done()
        os.kill(process.pid, signal.SIGCONT)
        assert (future.result(20).arrays["top_k_ids"] == 6).all()
    finally:
        os.kill(process.pid, signal.SIGCONT)
        student.close()
        process.join(20)
        print(printed, file=sys.stderr)
    assert process.exitcode == 0
