"""Reads where the students listen, and the run's keys, in a thread of its own.

They are files on a shared file system, which may stall or fail for a while. The link's thread must
go on sending heartbeats meanwhile, so it only takes what was read last.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from dskd_ds.errors import LinkError
from dskd_ds.link import keys
from dskd_ds.spec.processes import LinkSpec


class EndpointReader:
    """Reads the published addresses again and again until it is closed.

    The keys are read when an address is new: a student that was started again in an emptied run
    directory has made new ones.
    """

    def __init__(self, run_dir: Path, spec: LinkSpec) -> None:
        """Raises LinkError if the run's keys are open to other users."""
        self._run_dir, self._spec = run_dir, spec
        self._keys = self._read_keys()
        self._endpoints: dict[int, keys.Endpoint] = {}
        self._failure = ""
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="read endpoints", daemon=True).start()

    def current(self) -> dict[int, keys.Endpoint]:
        """Return the endpoints as they were last read, by student rank."""
        return self._endpoints

    def close(self) -> None:
        """Stop reading. Does not wait for a read that is stuck."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._read()
                self._failure = ""
            except (OSError, LinkError) as error:
                self._report(str(error))
            self._closed.wait(self._spec.heartbeat_seconds)

    def _read(self) -> None:
        """Read all addresses, and the keys if an address is new."""
        published = keys.read_addresses(self._run_dir)
        known = {rank: endpoint.published for rank, endpoint in self._endpoints.items()}
        if published.items() - known.items():
            self._keys = self._read_keys()
        endpoints: dict[int, keys.Endpoint] = {}
        for rank, found in published.items():
            is_known = known.get(rank) == found
            endpoints[rank] = (
                self._endpoints[rank] if is_known else keys.Endpoint(found, self._keys)
            )
        self._endpoints = endpoints

    def _read_keys(self) -> keys.LinkKeys | None:
        return keys.run_keys(self._run_dir) if self._spec.encrypt else None

    def _report(self, failure: str) -> None:
        """Print a failure once; what was read last stays in use."""
        if failure != self._failure:
            self._failure = failure
            print(
                f"{self._run_dir}: reading addresses failed, still trying: {failure}",
                file=sys.stderr,
            )
