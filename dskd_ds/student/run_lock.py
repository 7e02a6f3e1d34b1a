"""The run lock: two launches never write into one run directory at the same time.

Rank 0 of the students holds a lease: a file that names its process and that a thread touches every
few seconds. A launch that finds a lease is refused, unless the owner is dead: its process is gone,
or, on another machine, the lease was not touched for a minute.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from dskd_ds.errors import DskdError, RunInUseError
from dskd_ds.files.atomic import write_json
from dskd_ds.observe.evidence import Lease

LEASE_FILE = "lease.json"
BEAT_SECONDS = 5.0
"""Time between two touches of the lease by its owner."""
READ_SECONDS = 10.0
"""How long a read of the lease may fail, on a network file system for example, before a save."""
OWN_JOB_SECONDS = 600.0
"""How long a job that was requeued waits for its earlier start to end. SLURM requeues a job of a
node that it cannot reach, while the job's processes may still run there."""
STALE_SECONDS = 60.0
"""An owner on another machine that has not touched its lease for so long counts as dead."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lease."""

    launch_id: str
    host: str
    machine: str
    """Boot and process namespace: process ids mean the same to two processes with an equal one."""
    pid: int
    process_start: str
    """Start time of the process in the kernel's clock ticks, because process ids are used again."""
    job_id: str
    """SLURM's job, or ""."""
    since: str
    """When the lease was taken, in the owner's local time."""
    restart: int = 0
    """How often SLURM had started the job before. Leases of earlier versions have 0."""

    @staticmethod
    def this_process(env: Mapping[str, str] = os.environ) -> Owner:
        """Return this process as the owner of a new lease."""
        return Owner(
            launch_id=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            process_start=_process_start(os.getpid()),
            job_id=env.get("SLURM_JOB_ID", ""),
            since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
            restart=int(env.get("SLURM_RESTART_COUNT") or 0),
        )

    def is_of_this_machine(self) -> bool:
        """Return whether this process can see if the owner lives."""
        return bool(self.machine) and self.machine == _machine()

    def restarts(self, other: Owner) -> bool:
        """Return whether SLURM started this owner's job again after it had started the other."""
        return bool(self.job_id) and self.job_id == other.job_id and self.restart > other.restart

    def lives_here(self) -> bool:
        """Return whether the owner is a living process of this machine."""
        return self.is_of_this_machine() and _process_start(self.pid) == self.process_start

    def __str__(self) -> str:
        job = f", SLURM job {self.job_id}" if self.job_id else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


def _machine() -> str:
    """Return what names this boot and this process namespace, or "" on systems without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """Return the start time of a process of this machine, or "" if it is gone or a zombie."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    # proc_pid_stat(5): the name, field 2, is in brackets and may contain spaces. The state is
    # field 3, the start time field 22.
    fields = content.rpartition(")")[2].split()
    state, start = fields[0], fields[19]
    return "" if state in ("Z", "X") else start


class RunLock:
    """The lease on one run directory, for one launch. Only rank 0 of the students acquires it."""

    def __init__(self, run_dir: Path, owner: Owner | None = None) -> None:
        """Create the lock without taking it. owner: this process by default."""
        self.owner = owner or Owner.this_process()
        self._run_dir = run_dir
        self._path = run_dir / LEASE_FILE
        self._is_lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="run lock", daemon=True)

    def acquire(self) -> None:
        """Take the lease and keep it alive in a thread.

        An owner on another machine is watched until it touches its lease or counts as dead, for at
        most a minute. An earlier start of the same job gets time to end. Raises RunInUseError that
        names a living owner.
        """
        self._run_dir.mkdir(parents=True, exist_ok=True)
        first_seen: tuple[Owner, int] | None = None
        deadline, is_told = time.monotonic() + OWN_JOB_SECONDS, False
        while True:
            with self._guard():
                found = _read_owner(self._path)
                if found is None or self._is_dead(found):
                    write_json(self._path, asdict(self.owner), sync=True)
                    break
                seen = (found, self._path.stat().st_mtime_ns)
            first_seen = first_seen or seen
            is_alive = found.is_of_this_machine() or seen != first_seen
            may_wait = self.owner.restarts(found) and time.monotonic() < deadline
            if is_alive and not may_wait:
                raise RunInUseError(_refusal(self._run_dir, found))
            if is_alive and not is_told:
                print(
                    f"waiting up to {OWN_JOB_SECONDS:.0f} s for an earlier start of this job to"
                    f" end: {found}",
                    file=sys.stderr,
                )
                is_told = True
            time.sleep(1.0)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back, unless another launch has it by now."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._guard():
            if self._is_ours():
                self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise DskdError if another launch has taken the lease, for example during a long pause.

        Call it before a write that the other launch could also make.
        """
        if not self._is_lost and self._is_ours_within(READ_SECONDS):
            return
        other = _read_owner(self._path) or "it has ended by now"
        raise DskdError(
            f"{self._run_dir}: another launch has taken over this run directory ({other}).\n"
            "  this launch ends without saving; let the other one go on."
        )

    def _guard(self) -> FileLock:
        """Return a lock that makes reading and replacing the lease one action."""
        return FileLock(f"{self._path}.lock")

    def _is_ours_within(self, seconds: float) -> bool:
        """As `_is_ours`, but a file system that fails gets some time. Raises OSError after it."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self._is_ours()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _is_ours(self) -> bool:
        return _read_owner(self._path) == self.owner

    def _is_dead(self, other: Owner) -> bool:
        """Return whether the owner of the lease is dead. Call it under the guard."""
        if other.is_of_this_machine():
            # A process that is only stopped would write again when it is continued.
            return not other.lives_here()
        # Both times come from the file server, so the machines' clocks do not matter.
        guard = Path(f"{self._path}.lock")
        os.utime(guard)
        return guard.stat().st_mtime - self._path.stat().st_mtime > STALE_SECONDS

    def _keep_alive(self) -> None:
        """Touch the lease until `release`, or until another launch has it."""
        while not self._end.wait(BEAT_SECONDS):
            try:
                if not self._is_ours():
                    self._is_lost = True
                    return
                os.utime(self._path)
            except OSError:
                continue  # the file system may be back at the next beat


def refuse_a_held_run(run_dir: Path) -> None:
    """Raise RunInUseError if a living process of this machine holds the lease. Takes nothing.

    `dskd train` calls it to refuse before it starts ranks. An owner on another machine is left to
    rank 0, which can wait.
    """
    owner = _read_owner(run_dir / LEASE_FILE)
    if owner and owner.lives_here():
        raise RunInUseError(_refusal(run_dir, owner))


def read_lease(run_dir: Path, now: float) -> Lease | None:
    """Return the lease on a run directory, or None if there is none. Writes nothing.

    now: in Unix seconds. Whether an owner on another machine lives is judged by this machine's
    clock and the file's time, without watching it.
    """
    path = run_dir / LEASE_FILE
    owner = _read_owner(path)
    if owner is None:
        return None
    if owner.is_of_this_machine():
        return Lease(str(owner), owner.lives_here())
    try:
        age = now - path.stat().st_mtime
    except OSError:
        return None  # given back in this moment
    return Lease(str(owner), age <= STALE_SECONDS)


def _read_owner(path: Path) -> Owner | None:
    """Return the owner that a lease names, or None if there is no valid lease."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _refusal(run_dir: Path, owner: Owner) -> str:
    return (
        f"{run_dir}: another launch is using this run directory: {owner}.\n"
        "  wait for it to end, or end it, or set another run_dir."
    )
