"""Memory of several processes that read one dictionary: the kernel's own accounting (PSS) of their mappings, against one copy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dskd_ds.bench.measure import Figure
from dskd_ds.errors import DskdError
from dskd_ds.senses.dictionary.dictionary import SENSES_FILE
from dskd_ds.spec import RunSpec

TARGET = 1.15
NUM_READERS = 8
READER = """
import sys
from dskd_ds.senses.dictionary.dictionary import open_dictionary
dictionary = open_dictionary(sys.argv[1], verify=False)
touched = dictionary.senses.view(-1)[::512].double().sum() + dictionary.squared_norms[::512].double().sum()
print("ready", dictionary.row_owners.nbytes, flush=True)
sys.stdin.read()
"""
"""Opens, touches every page, says so and how much it derived for itself alone, and stays until its input is closed."""


def pages(spec: RunSpec) -> list[Figure]:
    """Eight processes map and touch the whole dictionary. Raises DskdError if one of them fails."""
    folder = Path(spec.senses.dictionary).resolve()
    one_copy = (folder / SENSES_FILE).stat().st_size
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(NUM_READERS)
    ]
    own = 0
    try:
        for reader in readers:
            assert reader.stdout is not None
            ready, *own_bytes = reader.stdout.readline().split() or [""]
            own += sum(map(int, own_bytes))
            if ready != "ready":
                raise DskdError(
                    f"a process that should have read {folder} ended with exit code {reader.wait()}."
                )
        resident, proportional = (
            sum(mapped_bytes(reader.pid, folder / SENSES_FILE, kind) for reader in readers)
            for kind in ("Rss", "Pss")
        )
    finally:
        for reader in readers:
            reader.communicate()  # closes its input, waits for its end
    notes = {
        "readers": NUM_READERS,
        "dictionary_bytes": one_copy,
        "summed_pss_bytes": proportional,
        "summed_rss_bytes": resident,
        "summed_bytes_of_their_own": own,
    }
    return [
        Figure(
            "pss_ratio",
            f"summed PSS of {NUM_READERS} readers of the dictionary, and what each derives from it, against one copy",
            (proportional + own) / one_copy,
            TARGET,
            better="lower",
            notes=notes,
        )
    ]


def mapped_bytes(pid: int, path: Path, kind: str) -> int:
    """Bytes of a file's mappings in a process: `Rss`, or `Pss`, in which each page is shared out among the processes that map it."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):  # the header of a mapping: addresses, permissions, ..., path
            inside = line.endswith(str(path))
        elif inside and name == f"{kind}:":
            total += int(values[0]) * 1024
    return total


BENCHES = {"pages": pages}
