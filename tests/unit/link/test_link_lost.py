"""Peers that fall silent, come back, or are replaced: who is greeted again, and whose words no longer count."""

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
    Credit,
    Hello,
    Message,
    Ping,
    Reply,
    Request,
    Welcome,
    WhoAreYou,
)
from dskd_ds.spec.processes import LinkSpec
from tests.unit.link.test_link import ARRAYS, QUICK, WANTED, hello, reply_arrays, serve

OPEN = QUICK.model_copy(update={"encrypt": False})
PATIENT = QUICK.model_copy(update={"dead_after_seconds": 3600.0})
"""Does not find out by itself, within a test, that the other side has given it up."""


class BareStudent:
    """A student's end made by hand, which says only what it is told to."""

    def __init__(self, run_dir: Path) -> None:
        self.router = zmq.Context.instance().socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        keys.link_dir(run_dir).mkdir(parents=True, exist_ok=True)
        keys.publish_address(run_dir, 0, f"tcp://127.0.0.1:{port}")
        self.teacher = b""

    def hear(self) -> Message:
        """The next message but pings; `teacher` is then who said it."""
        while True:
            assert self.router.poll(20_000), "nothing came"
            self.teacher, *frames = self.router.recv_multipart()
            message, _ = codec.decode(frames, "teacher")
            if not isinstance(message, Ping):
                return message

    def say(self, message: Message, arrays: dict[str, Array] | None = None) -> None:
        """To the teacher that was heard last."""
        self.router.send_multipart([self.teacher, *codec.encode(message, arrays)])

    def be_welcome(self) -> None:
        """Until the first credits are there."""
        assert isinstance(self.hear(), Hello)
        self.say(Welcome(student="student 0"))
        assert self.hear() == Credit(num_requests=QUICK.credits)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Callable[[], BareStudent]]:
    """bare() -> a student by hand; a second call replaces the first, as a restart does."""
    made: list[BareStudent] = []

    def make() -> BareStudent:
        made.append(BareStudent(tmp_path))
        return made[-1]

    yield make
    for student in made:
        student.router.close()


def ask(student: BareStudent, number: int) -> None:
    student.say(Request(request_id=number, wanted=WANTED), ARRAYS)


def test_a_restarted_student_gets_no_replies_and_no_credits_of_the_one_before(
    tmp_path: Path, bare: Callable[[], BareStudent]
) -> None:
    before = bare()
    link = TeacherLink(tmp_path, OPEN, hello("a"), num_students=1)
    before.be_welcome()
    for number in (1, 2, 3):
        ask(before, number)
    taken = [link.next_request(), link.next_request()]  # the third waits
    after = bare()
    after.be_welcome()
    ask(after, 4)
    work = link.next_request()
    assert work is not None
    assert work.request.request_id == 4  # nobody waits for the third
    for late in (*taken, work):
        assert late is not None
        link.reply(late, reply_arrays(1), 0.0)
    heard = after.hear()
    assert isinstance(heard, Reply)
    assert heard.request_id == 4
    assert after.hear() == Credit(num_requests=1)
    link.close()


def test_a_student_that_did_not_hear_the_hello_is_greeted_again(
    tmp_path: Path, bare: Callable[[], BareStudent]
) -> None:
    student = bare()
    link = TeacherLink(tmp_path, OPEN, hello("a"), num_students=1)
    assert isinstance(student.hear(), Hello)
    student.be_welcome()
    link.close()


def test_a_teacher_that_is_not_known_any_more_says_hello_once(
    tmp_path: Path, bare: Callable[[], BareStudent]
) -> None:
    student = bare()
    link = TeacherLink(
        tmp_path, PATIENT.model_copy(update={"encrypt": False}), hello("a"), num_students=1
    )
    student.be_welcome()
    for _ in range(3):
        student.say(WhoAreYou())
    student.be_welcome()
    ask(student, 1)
    serve(link, 5)
    assert isinstance(student.hear(), Reply)  # no other hello came before it
    student.say(Bye())
    link.close()


def be_teacher(run_dir: Path, spec: LinkSpec) -> None:
    """A teacher process."""
    serve(TeacherLink(run_dir, spec, hello("stopped"), num_students=1), 6).join()


def test_a_teacher_that_was_stopped_goes_on_as_soon_as_it_is_continued(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    student = StudentLink(tmp_path, 0, QUICK, 9, 4)
    process = multiprocessing.get_context("spawn").Process(
        target=be_teacher, args=(tmp_path, PATIENT), daemon=True
    )
    process.start()
    assert process.pid
    try:
        assert student.submit(ARRAYS, WANTED).result(60).teacher == "stopped"
        os.kill(process.pid, signal.SIGSTOP)
        future, heard = student.submit(ARRAYS, WANTED), ""
        while "requests go to another" not in heard:
            time.sleep(0.02)
            heard += capfd.readouterr().err
        assert not future.done()
        os.kill(process.pid, signal.SIGCONT)
        assert (future.result(20).arrays["top_k_ids"] == 6).all()
    finally:
        os.kill(process.pid, signal.SIGCONT)
        student.close()
        process.join(20)
        print(heard, file=sys.stderr)
    assert process.exitcode == 0
