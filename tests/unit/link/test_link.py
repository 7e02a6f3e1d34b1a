"""Both ends of the link over real, encrypted ZeroMQ sockets on 127.0.0.1."""

from __future__ import annotations

import re
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
from dskd_ds.signals.parts.measured import measured_arrays
from dskd_ds.spec.processes import LinkSpec
from dskd_ds.student.replies.requests import selection_arrays

QUICK = LinkSpec(heartbeat_seconds=0.1, dead_after_seconds=1.0, teacher_wait_seconds=20.0)
ARRAYS = {
    "input_ids": np.zeros((1, 4), np.int32),
    "position_ids": np.zeros((1, 4), np.int32),
    "top_k_positions": np.arange(3, dtype=np.int32),
    "draw_positions": np.zeros(0, np.int32),
    "hidden_positions": np.arange(1, dtype=np.int32),
    "layer_positions": np.zeros(0, np.int32),
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
        "layer_states": np.zeros((0, 8), np.uint8),
        "layer_scales": np.zeros((0, 0), np.uint16),
        **chosen_arrays(Chosen.nothing(), UNWANTED),
        **measured_arrays((), ()),
    }


def serve(link: TeacherLink, value: int) -> threading.Thread:
    """Start a thread that answers every request with `value`."""

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


def test_requests_are_answered_and_their_bytes_counted_until_goodbye(tmp_path: Path) -> None:
    student = StudentLink(tmp_path, 0, QUICK, 9, 4)
    teacher = TeacherLink(tmp_path, QUICK, hello("a"), num_students=1)
    thread = serve(teacher, 7)
    futures = [student.submit(ARRAYS, WANTED) for _ in range(6)]
    array_bytes = sum(array.nbytes for array in (*ARRAYS.values(), *reply_arrays(7).values()))
    for future in futures:
        answer = future.result(20)
        assert (answer.arrays["top_k_ids"] == 7).all()
        assert array_bytes < answer.link_bytes < array_bytes + 2000
    student.close()
    thread.join(20)
    assert not thread.is_alive()
    teacher.close()
    assert keys.read_addresses(tmp_path) == {}


def test_requests_of_a_teacher_that_leaves_go_to_another(
    tmp_path: Path, student: StudentLink
) -> None:
    leaver = TeacherLink(tmp_path, QUICK, hello("leaver"), num_students=1)
    futures = [student.submit(ARRAYS, WANTED) for _ in range(2)]
    taken = [leaver.next_request() for _ in range(2)]
    assert all(taken)
    leaver.close()
    helper = TeacherLink(tmp_path, QUICK, hello("helper"), num_students=1)
    serve(helper, 5)
    assert [future.result(20).teacher for future in futures] == ["helper", "helper"]
    helper.close()


def test_a_teachers_failure_is_raised_with_its_reason(tmp_path: Path, student: StudentLink) -> None:
    teacher = TeacherLink(tmp_path, QUICK, hello("a"), num_students=1)
    future = student.submit(ARRAYS, WANTED)
    work = teacher.next_request()
    assert work is not None
    teacher.fail(work, "out of memory")
    with pytest.raises(
        LinkError, match="no teacher could answer a request: teacher a: out of memory"
    ):
        future.result(20)
    teacher.close()


def test_a_reply_that_is_too_long_is_an_error_that_names_teacher_and_key(
    tmp_path: Path, student: StudentLink
) -> None:
    spec = QUICK.model_copy(update={"max_message_bytes": 3000})
    teacher = TeacherLink(tmp_path, spec, hello("a"), num_students=1)
    future = student.submit(ARRAYS, WANTED)
    work = teacher.next_request()
    assert work is not None
    teacher.reply(work, reply_arrays(1) | {"hidden": np.zeros((500, 8), np.uint8)}, 0.0)
    expected = (
        r"no teacher could answer a request: teacher a: the reply has .* max_message_bytes = 3000"
    )
    with pytest.raises(LinkError, match=expected):
        future.result(20)
    teacher.close()


def test_a_request_that_is_too_long_is_refused_at_once(tmp_path: Path) -> None:
    spec = QUICK.model_copy(update={"max_message_bytes": 300})
    link = StudentLink(tmp_path, 0, spec, 9, 4)
    expected = r"a request has .* bytes, more than \[link\] max_message_bytes = 300.\n.*micro_batch"
    with pytest.raises(InputError, match=expected):
        link.submit(ARRAYS, WANTED).result(20)
    link.close()


def test_no_teacher_is_exit_code_4(tmp_path: Path) -> None:
    spec = QUICK.model_copy(update={"teacher_wait_seconds": 0.3})
    link = StudentLink(tmp_path, 0, spec, 9, 4, teacher_name="code")
    expected = r"student 0 \(teacher code\): no teacher came(.|\n)*\[link\] address"
    with pytest.raises(NoTeacherError, match=expected) as error:
        link.submit(ARRAYS, WANTED).result(20)
    assert error.value.exit_code == ExitCode.NO_TEACHER
    link.close()


def test_what_one_teacher_refuses_another_answers(tmp_path: Path, student: StudentLink) -> None:
    one_at_a_time = QUICK.model_copy(update={"credits": 1})
    bad = TeacherLink(tmp_path, one_at_a_time, hello("bad"), num_students=1)
    future = student.submit(ARRAYS, WANTED)
    work = bad.next_request()
    assert work is not None
    good = TeacherLink(tmp_path, QUICK, hello("good"), num_students=1)
    serve(good, 4)
    assert student.submit(ARRAYS, WANTED).result(20).teacher == "good"
    bad.fail(work, "CUDA error")
    assert future.result(20).teacher == "good"
    bad.close()
    good.close()


def test_a_teacher_that_hangs_loses_its_requests_while_it_sends_heartbeats(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = QUICK.model_copy(update={"deadline_seconds": 1.0})
    student = StudentLink(tmp_path, 0, spec, 9, 4)
    hung = TeacherLink(tmp_path, spec, hello("hung"), num_students=1)
    future = student.submit(ARRAYS, WANTED)
    assert hung.next_request() is not None  # and never answers
    helper = TeacherLink(tmp_path, spec, hello("helper"), num_students=1)
    serve(helper, 5)
    assert future.result(20).teacher == "helper"
    assert "teacher hung has answered nothing for 1 s, but is alive" in capfd.readouterr().err
    student.close()
    hung.close()
    helper.close()


@pytest.mark.parametrize(
    ("second", "reason"),
    [(hello("b", vocab_size=8), "vocabulary"), (hello("b", fingerprint="g"), "same weights")],
)
def test_a_teacher_with_another_model_is_rejected_and_the_run_goes_on(
    tmp_path: Path, student: StudentLink, second: Hello, reason: str
) -> None:
    first = TeacherLink(tmp_path, QUICK, hello("a"), num_students=1)
    serve(first, 1)
    student.submit(ARRAYS, WANTED).result(20)
    other = TeacherLink(tmp_path, QUICK, second, num_students=1)
    assert other.next_request() is None  # rejected by its only student
    assert reason in other.rejections[0]
    assert student.submit(ARRAYS, WANTED).result(20).teacher == "a"
    first.close()
    other.close()


def test_without_another_teacher_the_error_says_why_the_last_one_was_rejected(
    tmp_path: Path,
) -> None:
    spec = QUICK.model_copy(update={"teacher_wait_seconds": 2.0})
    student = StudentLink(tmp_path, 0, spec, 9, 4)
    other = TeacherLink(tmp_path, spec, hello("b", vocab_size=8), num_students=1)
    with pytest.raises(NoTeacherError, match=r"rejected: teacher b: it has vocabulary"):
        student.submit(ARRAYS, WANTED).result(20)
    student.close()
    other.close()


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"nonsense"], "not a message of this protocol"),
        ([b"x"] * 1000, "not a message of this protocol"),
        (
            [codec.PREFIX.pack(codec.MAGIC, PROTOCOL, 6, zlib.crc32(b"{}") ^ 1), b"{}"],
            "header of 2 bytes is damaged",
        ),
    ],
    ids=["short", "a thousand frames", "wrong checksum"],
)
def test_garbage_from_a_peer_with_the_key_is_reported_and_costs_nothing(
    tmp_path: Path,
    student: StudentLink,
    frames: list[bytes],
    reason: str,
    capfd: pytest.CaptureFixture[str],
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
    teacher = TeacherLink(tmp_path, QUICK, hello("a"), num_students=1)
    serve(teacher, 3)
    said = ""
    while not re.search(rf"unnamed peer .* cannot be read: .*{reason}", said):
        assert student.submit(ARRAYS, WANTED).result(20).teacher == "a"
        said += capfd.readouterr().err
    teacher.close()
    socket.close(linger=0)


def test_a_peer_without_the_key_is_ignored(tmp_path: Path, student: StudentLink) -> None:
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
