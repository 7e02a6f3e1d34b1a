"""The ranks that hold one teacher together: their torch world, and what they tell each other.

The first rank talks to the students. It shares each request with the other ranks, and all compute
it together, because the layers of a divided model are collective. Whatever ends one rank ends them
all: students give its requests to another teacher.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from dskd_ds.errors import ExitCode, InputError
from dskd_ds.files.private import private_socket_path
from dskd_ds.link import Work
from dskd_ds.observe.run_files import record_end
from dskd_ds.runtime.devices import local_device
from dskd_ds.runtime.topology import TeacherRank
from dskd_ds.spec.processes import LinkSpec
from dskd_ds.teacher.group_channel import (
    LostRankError,
    RequestReceiver,
    RequestSender,
    SharedRequest,
)
from dskd_ds.teacher.group_watch import GroupWatch, OnLost
from dskd_ds.teacher.lost_device import is_device_lost

EXIT_SECONDS = 30.0
"""How long the goodbye to students may take when a teacher ends because of one of its ranks."""
LOAD_SECONDS = 3600.0
"""How long ranks wait for each other to start and to load their shares, which can take long. Once
the teacher serves, GroupWatch has shorter limits."""


class TeacherGroup:
    """One rank's view of the ranks of its teacher."""

    def __init__(self, place: TeacherRank, spec: LinkSpec, run_dir: Path, number: int) -> None:
        """Meet the other ranks. Collective. number: of the teacher.

        Raises InputError if the port of the teacher is taken, or if the others do not come.
        """
        self.rank, self.size = place.rank, place.size
        self._spec, self._run_dir, self._number = spec, run_dir, number
        open_world(place)
        self._address = f"ipc://{private_socket_path(f'{broadcast_token()}.teacher')}"
        self._sender = self._receiver = None
        if self.rank == 0:
            addresses = [self._request_address(rank) for rank in range(1, self.size)]
            self._sender = RequestSender(addresses, spec)
        else:
            self._receiver = RequestReceiver(self._request_address(self.rank), spec)
        self._watch: GroupWatch | None = None
        self.on_end: OnLost | None = None
        """Called before this process ends because of one of the ranks."""
        self._is_computing = False
        self.work: Work | None = None
        """The request that the first rank works on."""

    def _request_address(self, rank: int) -> str:
        return f"{self._address}.{rank}"

    def start_watch(self) -> None:
        """Watch the other ranks from now on; called by all of them when the model is loaded."""
        address = f"{self._address}.watch"
        self._watch = GroupWatch(address, self.rank, self.size, self._spec, self._end_process)

    def share(self, request: SharedRequest) -> None:
        """Give a valid request to the other ranks. Every rank then computes it.

        Raises LostRankError if a rank takes nothing.
        """
        assert self._sender is not None
        self._sender.send(request)
        self.begin_work()

    def receive(self) -> SharedRequest | None:
        """Wait for the next request of the first rank; None if there are no more."""
        assert self._receiver is not None
        request = self._receiver.receive()
        if request is not None:
            self.begin_work()
        return request

    def begin_work(self) -> None:
        """Note that all ranks compute a request now."""
        self._is_computing = True
        if self._watch:
            self._watch.begin_work()

    def end_work(self) -> None:
        """Note that this rank has computed its part of a request."""
        self._is_computing, self.work = False, None
        if self._watch:
            self._watch.end_work()

    def is_broken_by(self, error: Exception) -> bool:
        """Return whether the ranks cannot go on together after an error of this one."""
        # An invalid request is refused before the other ranks get it.
        is_lost = isinstance(error, LostRankError) or is_device_lost(error)
        return self._is_computing or is_lost

    def fail(self, reason: str, is_refusal: bool) -> NoReturn:
        """End all ranks of this teacher, because this one failed; does not return.

        is_refusal: whether the request is to blame, and not a rank, its GPU or a collective call.
        """
        assert self._watch is not None
        self._watch.fail(reason, is_refusal)
        _wait_for_exit()  # another thread ends this process already

    def stay_if_ending(self) -> None:
        """Wait for the end of the process if another thread is ending it.

        That thread says goodbye to the students. The link must not be closed twice at a time.
        """
        if self._watch and self._watch.is_ending:
            _wait_for_exit()

    def _end_process(self, reason: str, is_refusal: bool) -> None:
        """Say why this teacher ends, and end the process. is_refusal: as for `fail`."""
        # The main thread may be in a collective call for ever, so it is not asked to end.
        message = f"teacher {self._number}, rank {self.rank} of {self.size}: {reason}"
        # If the file system hangs too, the process still ends.
        last_words = threading.Timer(EXIT_SECONDS, os._exit, [int(ExitCode.FAILED)])
        last_words.daemon = True
        last_words.start()
        with contextlib.suppress(Exception):
            print(message, file=sys.stderr, flush=True)
            if self.rank == 0:
                code = int(ExitCode.FAILED)
                record_end(self._run_dir, "teacher", self._number, exit_code=code, message=message)
            if self.on_end:
                self.on_end(reason, is_refusal)
            self._remove_sockets()
        os._exit(int(ExitCode.FAILED))

    def _remove_sockets(self) -> None:
        """Delete the files of this teacher's sockets, which ZeroMQ does where it is closed."""
        path = Path(self._address.removeprefix("ipc://"))
        for socket in path.parent.glob(f"{path.name}.*"):
            socket.unlink(missing_ok=True)

    def close(self) -> None:
        """Send the other ranks home, if this is the first one, and leave the torch world."""
        if self._sender:
            self._sender.send_end()
            self._sender.close()
        if self._receiver:
            self._receiver.close()
        if self._watch:
            self._watch.close()
        if dist.is_initialized():
            dist.destroy_process_group()


def _wait_for_exit() -> NoReturn:
    """Wait for the end of the process, which another thread brings about."""
    time.sleep(EXIT_SECONDS)
    os._exit(int(ExitCode.FAILED))


def open_world(place: TeacherRank) -> None:
    """Join the torch world of the teacher. Collective.

    Raises InputError if the ranks cannot meet.
    """
    device = local_device()
    try:
        dist.init_process_group(
            dist.get_default_backend_for_device(device),
            init_method=f"tcp://127.0.0.1:{place.port}",
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=LOAD_SECONDS),
            device_id=None if device.type == "cpu" else device,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the {place.size} ranks of a teacher cannot meet at port {place.port} of this node:"
            f" {reason}\n"
            "  export another MASTER_PORT before the start (the port is MASTER_PORT + 1 + the"
            " teacher's number modulo 63), and start all ranks of the teacher with one launcher."
        ) from None


def broadcast_token() -> str:
    """Return a random name that is the same on all ranks, and new for each start. Collective."""
    token = torch.frombuffer(bytearray(secrets.token_bytes(8)), dtype=torch.uint8)
    token = token.to(local_device())
    dist.broadcast(token, src=0)
    return bytes(token.tolist()).hex()
