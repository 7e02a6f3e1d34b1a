"""Both ends of the link over real, encrypted ZeroMQ sockets on 127.0.0.1."""

from __future__ import annotations

import socket as system_socket
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from dskd_ds.errors import ExitCode, InputError, LinkError, NoTeacherError
from dskd_ds.link import StudentLink, TeacherLink, codec, keys
from dskd_ds.link.messages import PROTOCOL, Hello, Wanted
from dskd_ds.signals.parts.chosen import UNWANTED, Chosen, chosen_arrays
from dskd_ds.spec.processes import LinkSpec
from dskd_ds.student.requests import selection_arrays

QUICK = LinkSpec(heartbeat_seconds=0.1, dead_after_seconds=1.0, teacher_wait_seconds=20.0)
ARRAYS = {
    "input_ids": np.zeros((1, 4), np.int32),
    "position_ids": np.zeros((1, 4), np.int32),
    "top_k_positions": np.arange(3, dtype=np.int32),
    "draw_positions": np.zeros(0, np.int32),
    "hidden_positions": np.arange(1, dtype=np.int32),
    **selection_arrays(None),
}
WANTED = Wanted(
    top_k=2,
    temperatures=(1.0,),
    num_draws=5,
    draw_temperature=1.0,
    draw_seed=0,
    hidden_format="bfloat16",
)


def hello(name: str, fingerprint: str = "f", vocab_size: int = 9) -> Hello:
    return Hello(teacher=name, fingerprint=fingerprint, vocab_size=vocab_size, hidden_size=4)


def reply_arrays(value: int) -> dict[str, np.ndarray]:
    return {
        "top_k_ids": np.full((3, 2, 1), value, np.uint8),
        "top_k_logits": np.zeros((3, 2), np.float16),
        "tail": np.zeros((3, 1), np.float32),
        "draw_lengths": np.zeros(0, np.uint16),
        "draw_ids": np.zeros((0, 1), np.uint8),
        "draw_counts": np.zeros((0, 1), np.uint8),
        "draw_log_probs": np.zeros(0, np.float32),
        "hidden": np.zeros((1, 8), np.uint8),
        "hidden_scales": np.zeros((1, 0), np.uint16),
        **chosen_arrays(Chosen.nothing(), UNWANTED),
    }


def serve(link: TeacherLink, value: int) -> threading.Thread:
    """A thread that answers every request with `value`."""

    def loop() -> None:
        while (work := link.next_request()) is not None:
            link.reply(work, reply_arrays(value), 0.0)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def student(tmp_path: Path) -> Iterator[StudentLink]:
    link = StudentLink(tmp_path, 0, QUICK, 9, 4)
    yield link
    link.close()


def test_requests_are_answered_and_counted_and_goodbye_ends_the_teacher(tmp_path: Path) -> None:
    student = StudentLink(tmp_path, 0, QUICK, 9, 4)
    teacher = TeacherLink(tmp_path, QUICK, hello("a"), num_students=1)
    thread = serve(teacher, 7)
    answers = [future.result(20) for future in [student.submit(ARRAYS, WANTED) for _ in range(6)]]
    assert all((answer.arrays["top_k_ids"] == 7).all() for answer in answers)
    sent = sum(array.nbytes for array in (*ARRAYS.values(), *reply_arrays(7).values()))
    assert all(sent < answer.link_bytes < sent + 2000 for answer in answers)
    student.close()
    thread.join(20)
    assert not thread.is_alive()
    teacher.close()
    assert keys.read_addresses(tmp_path) == {}


def test_a_lost_teachers_requests_go_to_another(tmp_path: Path, student: StudentLink) -> None:
    silent = TeacherLink(tmp_path, QUICK, hello("silent"), num_students=1)
    futures = [student.submit(ARRAYS, WANTED) for _ in range(2)]
    taken = [silent.next_request() for _ in range(2)]
    assert all(taken)
    silent.close()  # leaves with two requests unanswered
    helper = TeacherLink(tmp_path, QUICK, hello("helper"), num_students=1)
    serve(helper, 5)
    assert [future.result(20).teacher for future in futures] == ["helper", "helper"]
    helper.close()


def test_a_teacher_that_cannot_answer_says_why(tmp_path: Path, student: StudentLink) -> None:
    teacher = TeacherLink(tmp_path, QUICK, hello("a"), num_students=1)
    future = student.submit(ARRAYS, WANTED)
    work = teacher.next_request()
    assert work is not None
    teacher.fail(work, "out of memory")
    with pytest.raises(LinkError, match="teacher a could not answer a request: out of memory"):
        future.result(20)
    teacher.close()


def test_a_reply_beyond_the_limit_is_an_error_that_names_teacher_and_key(
    tmp_path: Path, student: StudentLink
) -> None:
    teacher = TeacherLink(
        tmp_path, QUICK.model_copy(update={"max_message_bytes": 3000}), hello("a"), num_students=1
    )
    future = student.submit(ARRAYS, WANTED)
    work = teacher.next_request()
    assert work is not None
    teacher.reply(work, reply_arrays(1) | {"hidden": np.zeros((500, 8), np.uint8)}, 0.0)
    with pytest.raises(
        LinkError,
        match=r"teacher a could not answer a request: the reply has .* max_message_bytes = 3000",
    ):
        future.result(20)
    teacher.close()


def test_a_request_beyond_the_limit_is_not_sent_again_and_again(tmp_path: Path) -> None:
    link = StudentLink(tmp_path, 0, QUICK.model_copy(update={"max_message_bytes": 300}), 9, 4)
    with pytest.raises(
        InputError,
        match=r"a request has .* bytes, more than \[link\] max_message_bytes = 300.\n.*micro_batch_blocks",
    ):
        link.submit(ARRAYS, WANTED).result(20)
    link.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("no.such.host.invalid", "no known host"),
        ("203.0.113.1", "nothing can listen"),
        ("0.0.0.0", "cannot connect to that"),
    ],
)
def test_an_address_that_will_not_do_is_explained(
    tmp_path: Path, address: str, reason: str
) -> None:
    with pytest.raises(
        InputError,
        match=rf'\[link\] address = "{address}", but .*{reason}.*\n  set it to "hostname"',
    ):
        StudentLink(tmp_path, 0, QUICK.model_copy(update={"address": address}), 9, 4)
    assert keys.read_addresses(tmp_path) == {}


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_students_of_a_launch_over_nodes_do_not_listen_where_nobody_comes(
    tmp_path: Path, address: str
) -> None:
    spec = QUICK.model_copy(update={"address": address})
    with pytest.raises(
        InputError, match=r"several nodes, and 127\.0\.0\.1 is reached from its own node only"
    ):
        StudentLink(tmp_path, 0, spec, 9, 4, spans_nodes=True)
    StudentLink(tmp_path, 0, spec, 9, 4).close()


def test_a_name_that_means_this_machine_alone_here_is_reached_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Debian, where the own host name is 127.0.1.1: what listens there only, other machines do not reach."""
    monkeypatch.setattr(system_socket, "gethostname", lambda: "localhost")
    spec = QUICK.model_copy(update={"address": "hostname"})
    link = StudentLink(tmp_path, 0, spec, 9, 4)
    assert link.address.startswith("tcp://localhost:")
    with system_socket.create_connection(
        ("127.0.0.2", int(link.address.split(":")[-1])), timeout=20
    ):
        pass  # another address of this machine than the name's
    teacher = TeacherLink(tmp_path, spec, hello("a"), num_students=1)
    serve(teacher, 3)
    assert link.submit(ARRAYS, WANTED).result(20).teacher == "a"
    link.close()
    teacher.close()
    with pytest.raises(InputError, match="with encrypt = true"):
        StudentLink(tmp_path, 0, spec.model_copy(update={"encrypt": False}), 9, 4, spans_nodes=True)


def test_no_teacher_is_exit_code_4(tmp_path: Path) -> None:
    link = StudentLink(tmp_path, 0, QUICK.model_copy(update={"teacher_wait_seconds": 0.3}), 9, 4)
    with pytest.raises(NoTeacherError, match=r"no teacher came(.|\n)*\[link\] address") as error:
        link.submit(ARRAYS, WANTED).result(20)
    assert error.value.exit_code == ExitCode.NO_TEACHER
    link.close()


@pytest.mark.parametrize(
    ("second", "words"),
    [(hello("b", vocab_size=8), "vocabulary"), (hello("b", fingerprint="g"), "same weights")],
)
def test_a_teacher_of_another_kind_is_refused(
    tmp_path: Path, student: StudentLink, second: Hello, words: str
) -> None:
    first = TeacherLink(tmp_path, QUICK, hello("a"), num_students=1)
    serve(first, 1)
    student.submit(ARRAYS, WANTED).result(20)
    other = TeacherLink(tmp_path, QUICK, second, num_students=1)
    with pytest.raises(LinkError, match=words):  # noqa: PT012 (asked again until the link has seen the stranger)
        while True:  # until the link has seen the stranger's hello
            student.submit(ARRAYS, WANTED).result(20)
    first.close()
    other.close()


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([b"nonsense"], "no message of this protocol"),
        (
            [codec.PREFIX.pack(codec.MAGIC, PROTOCOL, 7, zlib.crc32(b"{}") ^ 1), b"{}"],
            "header of 2 bytes is damaged",
        ),
    ],
    ids=["short", "wrong checksum"],
)
def test_garbage_from_a_key_holder_is_an_error_that_names_it(
    tmp_path: Path, student: StudentLink, frames: list[bytes], words: str
) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    pair = keys.run_keys(tmp_path)
    socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = (
        pair.student.public,
        pair.teacher.public,
        pair.teacher.secret,
    )
    socket.connect(student.address)
    socket.send_multipart(frames)
    with pytest.raises(LinkError, match=rf"unnamed peer .* cannot be read: .*{words}"):
        student.submit(ARRAYS, WANTED).result(20)
    socket.close(linger=0)


def test_a_stranger_without_the_key_is_not_heard(tmp_path: Path, student: StudentLink) -> None:
    stranger = zmq.Context().socket(zmq.DEALER)
    stranger.curve_serverkey = keys.run_keys(tmp_path).student.public
    stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
    stranger.connect(student.address)
    stranger.send_multipart([b"nonsense"])
    teacher = TeacherLink(tmp_path, QUICK, hello("a"), num_students=1)
    serve(teacher, 3)
    assert student.submit(ARRAYS, WANTED).result(20).teacher == "a"
    teacher.close()
    stranger.close(linger=0)


def test_keys_are_closed_to_others(tmp_path: Path) -> None:
    keys.run_keys(tmp_path)
    path = tmp_path / "link" / "keys" / "student.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(LinkError, match="others may read this key"):
        keys.run_keys(tmp_path)
