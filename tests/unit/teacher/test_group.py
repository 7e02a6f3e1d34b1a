"""The ranks of one teacher: requests reach them whole, and a rank that fails is noticed."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zmq

from dskd_ds.errors import LinkError
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.spec.processes import LinkSpec
from dskd_ds.teacher.answer import compute
from dskd_ds.teacher.group_channel import (
    LostRankError,
    RequestReceiver,
    RequestSender,
    SharedRequest,
)
from dskd_ds.teacher.group_watch import GroupWatch
from tests.unit.signals.known_request import WANTED, known_request

QUICK = LinkSpec(heartbeat_seconds=0.1, dead_after_seconds=0.6, deadline_seconds=0.5)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/socket"


def shared(teacher: FrozenModel) -> SharedRequest:
    """Return what a teacher's first rank gives to the others for a known request."""
    given: list[SharedRequest] = []
    compute(teacher, known_request("topk").arrays, WANTED, share=given.append)
    return given[0]


def test_requests_reach_the_other_ranks_until_the_end(teacher: FrozenModel, address: str) -> None:
    request = shared(teacher)
    with ExitStack() as cleanup:
        sender = RequestSender([f"{address}.1", f"{address}.2"], QUICK)
        cleanup.callback(sender.close)
        receivers = [RequestReceiver(f"{address}.{rank}", QUICK) for rank in (1, 2)]
        for receiver in receivers:
            cleanup.callback(receiver.close)
        sender.send(request)
        sender.send_end()
        for receiver in receivers:
            found = receiver.receive()
            assert found is not None
            assert found.wanted == request.wanted
            for name, array in request.arrays.items():
                np.testing.assert_array_equal(found.arrays[name], array)
            compute(teacher, found.arrays, found.wanted)  # it is a valid request
            assert receiver.receive() is None


def test_an_invalid_request_is_not_shared(teacher: FrozenModel) -> None:
    given: list[SharedRequest] = []
    arrays = known_request("topk").arrays
    arrays["input_ids"] = arrays["input_ids"] + 1000
    with pytest.raises(ValueError, match="input_ids"):
        compute(teacher, arrays, WANTED, share=given.append)
    assert not given


def test_a_message_that_is_no_request_is_refused(address: str) -> None:
    receiver = RequestReceiver(address, QUICK)
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.bind(address)
    socket.send_multipart([b"DSKD", b"\x80\x04N."])
    with pytest.raises(LinkError, match="the first rank of this teacher"):
        receiver.receive()
    socket.close(0)
    receiver.close()


def test_a_rank_that_takes_nothing_is_named(teacher: FrozenModel, address: str) -> None:
    sender = RequestSender([address], QUICK)
    with pytest.raises(LostRankError, match="rank 1 of this teacher"):
        sender.send(shared(teacher))
    sender.close()


class Ranks:
    """The watches of a teacher's ranks; what ends a rank is put into its queue."""

    def __init__(self, address: str, size: int, spec: LinkSpec = QUICK) -> None:
        self.ends: list[queue.Queue[tuple[str, bool]]] = [queue.Queue() for _ in range(size)]
        self.watches = [
            GroupWatch(address, rank, size, spec, partial(self._note, rank)) for rank in range(size)
        ]

    def _note(self, rank: int, reason: str, is_refusal: bool) -> None:
        self.ends[rank].put((reason, is_refusal))

    def end(self, rank: int) -> tuple[str, bool]:
        """Wait for the end of a rank; return its reason, and whether the request is to blame."""
        return self.ends[rank].get(timeout=60)

    def reason(self, rank: int) -> str:
        """Wait for the end of a rank, and return its reason."""
        return self.end(rank)[0]

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *error: object) -> None:
        for watch in self.watches:
            watch.close()


def closed(ranks: Ranks) -> str:
    """End rank 1 without a word."""
    ranks.watches[1].close()
    return "rank 1 of this teacher has ended or stands still"


def refused(ranks: Ranks) -> str:
    """Let rank 1 report that a request is too large."""
    ranks.watches[1].fail("the teacher has too little memory", is_refusal=True)
    return "rank 1 of this teacher failed: the teacher has too little memory"


def failed(ranks: Ranks) -> str:
    """Let rank 1 report a collective call that failed."""
    ranks.watches[1].fail("RuntimeError: connection closed", is_refusal=False)
    return "rank 1 of this teacher failed: RuntimeError: connection closed"


def hung(ranks: Ranks) -> str:
    """Let the ranks compute for longer than the deadline."""
    for watch in ranks.watches:
        watch.begin_work()
    return "one of them hangs, or requests need longer. Then raise deadline_seconds."


@pytest.mark.parametrize("happens", [closed, refused, failed, hung])
def test_what_happens_to_one_rank_ends_the_first(
    address: str, happens: Callable[[Ranks], str]
) -> None:
    with Ranks(address, 3) as ranks:
        expected = happens(ranks)
        reason, is_refusal = ranks.end(0)
    assert expected in reason
    assert is_refusal == (happens is refused)


def test_the_end_of_the_first_rank_ends_the_others(address: str) -> None:
    with Ranks(address, 3) as ranks:
        ranks.watches[0].close()
        for rank in (1, 2):
            assert "rank 0 of this teacher has ended" in ranks.reason(rank)


def test_a_request_that_was_computed_does_not_count_as_hanging(address: str) -> None:
    with Ranks(address, 2) as ranks:
        for watch in ranks.watches:
            watch.begin_work()
            watch.end_work()
        # Longer than the deadline of a request passes until the silence is noticed.
        ranks.watches[1].close()
        assert "has ended or stands still" in ranks.reason(0)
