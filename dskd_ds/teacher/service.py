"""Runs a teacher: loads the model, finds the students, answers until they have left."""

from __future__ import annotations

import os
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from dskd_ds.errors import DskdError, LinkError
from dskd_ds.link import TeacherSide, Work, open_teacher_side
from dskd_ds.link.messages import Hello
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.models.routed import RoutedTeacher
from dskd_ds.models.tensor_parallel import load_divided
from dskd_ds.runtime.stop import StopWish
from dskd_ds.runtime.topology import ALONE, Role, TeacherRank
from dskd_ds.senses.choose.on_teacher import TeacherSenses, open_on_teacher
from dskd_ds.spec import RunSpec
from dskd_ds.teacher.answer import Computed, compute, finish
from dskd_ds.teacher.follow import follow
from dskd_ds.teacher.group import TeacherGroup
from dskd_ds.teacher.health import WatchedLink, note_loading
from dskd_ds.teacher.lost_device import LostDeviceError, is_device_lost, is_request_to_blame
from dskd_ds.teacher.out_of_memory import TeacherMemoryError, release_memory


def serve(
    served: RoutedTeacher,
    replica: int,
    role: Role | None = None,
    place: TeacherRank = ALONE,
    step: Role | None = None,
) -> None:
    """Serve a run as teacher number `replica`; return when its students are done.

    role: this rank's role in a launch with students; None if they are in another one. step: its
    role in a launch of several teachers without students, or None. place: this rank's place in a
    teacher of several ranks, of which only the first one talks to students.
    Raises NoTeacherError if no student listens, LinkError if one breaks the protocol, InputError if
    the model, or a dictionary or index that is needed here, cannot be opened, LostDeviceError.
    """
    spec, models = served.spec, served.models
    run_dir, num_students = Path(spec.run_dir), spec.topology.num_students
    shown_name = served.name if spec.teachers else ""
    if place.rank == 0:
        note_loading(run_dir, replica, shown_name)
    with ExitStack() as cleanup:
        group: TeacherGroup | None = None
        if place.size > 1:
            group = TeacherGroup(place, spec.link, run_dir, replica)
            cleanup.callback(group.close)
        if group and group.rank > 0:
            part = load_divided(models.teacher, models.shared_vocab_size)
            stop_with_students(role)
            follow(part, group)
            return
        senses = open_on_teacher(spec, role or step, cleanup)
        teacher = _load(models, group)
        hello = _hello(spec, models, teacher, replica, senses.name)
        name = hello.teacher
        side = open_teacher_side(
            served.link_root,
            spec.link,
            hello,
            num_students,
            waits_for_restart=role is None,
            is_stop_wanted=stop_with_students(role),
        )
        link = WatchedLink(side, run_dir, replica, place.size, shown_name)
        cleanup.callback(link.close)
        if group:
            group.on_end = partial(_leave, link, group)
        started = time.monotonic()
        num_requests, busy_seconds = serve_requests(teacher, senses, link, group, role is None)
        if group:
            group.stay_if_ending()
        report_rejections(name, link.rejections, spec.topology.num_students, role)
    share = busy_seconds / max(time.monotonic() - started, 1e-9)
    print(
        f"teacher {name}: answered {num_requests} requests, busy {share:.0%} of the time.",
        file=sys.stderr,
    )


def _load(models: RunModels, group: TeacherGroup | None) -> FrozenModel:
    """Return the teacher, or this rank's part of it."""
    if group is None:
        return load_frozen(models.teacher, vocab_size=models.shared_vocab_size)
    teacher = load_divided(models.teacher, models.shared_vocab_size)
    # Now, because the other ranks listen from here on, and hashing the weights takes long.
    group.start_watch()
    return teacher


def stop_with_students(role: Role | None) -> StopWish:
    """Let a teacher of a launch note signals that ask it to stop. Returns whether one came.

    Schedulers and launchers send them to all ranks. The students then save, and a launcher kills
    them if a teacher has ended with an error before. So the teacher stays until they have said
    goodbye or are silent. While it loads, and on its own, a signal ends it at once.
    """
    wish = StopWish()
    if role is not None:
        wish.listen()
    return wish


def _hello(
    spec: RunSpec, models: RunModels, teacher: FrozenModel, replica: int, senses_name: str
) -> Hello:
    """Return how this teacher introduces itself. senses_name: of what it chooses senses with.

    Replies depend on weights and senses; students refuse a teacher with another fingerprint than
    the first one's.
    """
    return Hello(
        teacher=f"{replica} ({socket.gethostname()}, process {os.getpid()})",
        fingerprint=reply_fingerprint(spec, models, teacher.device.type) + senses_name,
        vocab_size=teacher.vocab_size,
        hidden_size=teacher.hidden_size,
    )


def _leave(link: TeacherSide, group: TeacherGroup, reason: str, is_refusal: bool) -> None:
    """Refuse the request that is being computed, or give it back; say goodbye to the students."""
    if group.work is not None:
        tell = link.fail if is_refusal else link.give_back
        tell(group.work, reason)
    link.close()


def report_rejections(
    name: str, rejections: dict[int, str], num_students: int, role: Role | None
) -> None:
    """Say which students took no replies from this teacher, and why.

    Raises LinkError for a teacher on its own that no student wanted. One in a launch ends without
    an error: the deepspeed launcher would end all other ranks with it.
    """
    for rank, reason in sorted(rejections.items()):
        print(f"teacher {name}: student {rank} rejected it: {reason}", file=sys.stderr)
    if role is None and len(rejections) == num_students:
        raise LinkError(f"teacher {name}: every student rejected it.")


def serve_requests(
    teacher: FrozenModel,
    senses: TeacherSenses,
    link: TeacherSide,
    group: TeacherGroup | None = None,
    ends_with_device: bool = True,
) -> tuple[int, float]:
    """Answer until the students have left. Senses are chosen during the next request's forward
    pass.

    ends_with_device: whether to raise LostDeviceError once the GPU cannot be used any more, so that
    a loop can start the teacher again. One in a launch goes on and refuses everything: the launcher
    would end all other ranks with it.
    Returns the number of requests, and the seconds that this thread worked on them. Raises the
    errors of `TeacherLink.next_request`.
    """
    num_requests, busy_seconds = 0, 0.0
    finishing: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="finish replies") as finisher:
        while (work := link.next_request()) is not None:
            num_requests += 1
            started = time.monotonic()
            lost: LostDeviceError | None = None
            try:
                computed = _compute_or_fail(teacher, senses, link, work, group)
            except LostDeviceError as error:
                computed, lost = None, error
            if finishing:
                finishing.result()  # at most one reply waits in memory for its senses
            if lost and ends_with_device:
                link.give_back(work, lost.summary)
                raise lost
            if lost:
                link.fail(work, lost.summary)
            if computed:
                finishing = finisher.submit(_finish_or_fail, computed, link, work, started)
            busy_seconds += time.monotonic() - started
    return num_requests, busy_seconds


def _compute_or_fail(
    teacher: FrozenModel,
    senses: TeacherSenses,
    link: TeacherSide,
    work: Work,
    group: TeacherGroup | None,
) -> Computed | None:
    """Compute; report any error to the student, which may ask another teacher.

    A teacher of several ranks ends if a request fails that it has shared with them: they are in the
    middle of a collective call. Raises LostDeviceError as `_compute_or_refuse` does.
    """
    if group is None:
        return _compute_or_refuse(teacher, senses, link, work)
    try:
        group.work = work
        return compute(teacher, work.arrays, work.request.wanted, senses, group.share)
    except Exception as error:
        is_own = isinstance(error, DskdError)
        reason = str(error) if is_own else f"{type(error).__name__}: {error}"
        if group.is_broken_by(error):
            group.fail(reason, is_request_to_blame(error))
        link.fail(work, reason)
        return None
    finally:
        group.end_work()


def _compute_or_refuse(
    teacher: FrozenModel, senses: TeacherSenses, link: TeacherSide, work: Work
) -> Computed | None:
    """Compute on a teacher of one rank, which can go on after most errors.

    Raises LostDeviceError, without a refusal, if it cannot.
    """
    try:
        return compute(teacher, work.arrays, work.request.wanted, senses)
    except TeacherMemoryError as error:
        link.fail(work, str(error))
    except Exception as error:
        if is_device_lost(error):
            raise LostDeviceError(error) from None
        link.fail(work, f"{type(error).__name__}: {error}")
        return None
    # Outside of the handler: there the error still holds the failed request's tensors.
    release_memory()
    return None


def _finish_or_fail(computed: Computed, link: TeacherSide, work: Work, started: float) -> None:
    """Finish and reply; report any error to the student, as nothing else sees this thread's."""
    try:
        link.reply(work, finish(computed), time.monotonic() - started)
    except Exception as error:
        link.fail(work, f"{type(error).__name__}: {error}")
