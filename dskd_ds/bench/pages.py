"""Compares the memory of several processes that read one dictionary with the size of one copy.

The memory is the kernel's accounting (PSS) of their mappings.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dskd_ds.bench.measure import Figure
from dskd_ds.errors import DskdError
from dskd_ds.senses.dictionary.facts import SENSES_FILE
from dskd_ds.spec import RunSpec

TARGET = 1.15
NUM_READERS = 8
READER = """
import sys
from dskd_ds.senses.dictionary.dictionary import open_dictionary
dictionary = open_dictionary(sys.argv[1], verify=False)
dictionary.senses.view(-1)[::512].double().sum()
dictionary.squared_norms[::512].double().sum()
print("ready", dictionary.row_owners.nbytes, flush=True)
sys.stdin.read()
"""
"""A reader opens the dictionary and touches every page. It then prints "ready" and the bytes of its
private arrays, and stays until its stdin is closed."""


def bench_pages(spec: RunSpec) -> list[Figure]:
    """Return the memory of NUM_READERS processes that map and touch the whole dictionary.

    Raises DskdError if one of them fails.
    """
    folder = Path(spec.senses.dictionary).resolve()
    one_copy = (folder / SENSES_FILE).stat().st_size
    readers = [_start_reader(folder) for _ in range(NUM_READERS)]
    try:
        # All readers must be ready before the first is measured: PSS divides a page by the number
        # of processes that map it.
        private = sum(_private_bytes(reader, folder) for reader in readers)
        resident, proportional = (
            sum(mapped_bytes(reader.pid, folder / SENSES_FILE, kind) for reader in readers)
            for kind in ("Rss", "Pss")
        )
    finally:
        for reader in readers:
            reader.communicate()  # closes its stdin and waits until it ends
    notes = {
        "readers": NUM_READERS,
        "dictionary_bytes": one_copy,
        "summed_pss_bytes": proportional,
        "summed_rss_bytes": resident,
        "summed_bytes_of_their_own": private,
    }
    return [
        Figure(
            key="pss_ratio",
            what=f"memory of {NUM_READERS} dictionary readers (PSS and private arrays) / one copy",
            value=(proportional + private) / one_copy,
            target=TARGET,
            better="lower",
            notes=notes,
        )
    ]


def _start_reader(folder: Path) -> subprocess.Popen[str]:
    """Start a process that maps the dictionary in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-c", READER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _private_bytes(reader: subprocess.Popen[str], folder: Path) -> int:
    """Wait until a reader is ready and return the bytes of its private arrays.

    Raises DskdError if the reader ends instead.
    """
    assert reader.stdout is not None
    words = reader.stdout.readline().split()
    if not words or words[0] != "ready":
        raise DskdError(f"a process that reads {folder} ended with exit code {reader.wait()}.")
    return int(words[1])


def mapped_bytes(pid: int, path: Path, kind: str) -> int:
    """Return the bytes of a file's mappings in a process.

    kind: `Rss`, or `Pss`, which divides each page by the number of processes that map it.
    """
    total = 0
    in_mapping = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        name, *values = line.split()
        # A mapping starts with a header line: addresses, permissions, ..., path.
        if not name.endswith(":"):
            in_mapping = line.endswith(str(path))
        elif in_mapping and name == f"{kind}:":
            total += int(values[0]) * 1024
    return total


BENCHES: dict[str, Callable[[RunSpec], list[Figure]]] = {"pages": bench_pages}
