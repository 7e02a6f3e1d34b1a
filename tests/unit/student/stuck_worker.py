"""A process that hangs: its watchdog must end it. It prints "ready" when it begins to hang.

    python -m tests.unit.student.stuck_worker RUN_DIR WHAT [key=value ...]

WHAT: `sleep` hangs in Python; `lock` in a call of C that a signal does not end, so that no handler
of Python runs.
"""

from __future__ import annotations

import ctypes
import sys
import time

from dskd_ds.runtime.stop import StopWish
from dskd_ds.spec import load_spec
from dskd_ds.student.phases import Phases
from dskd_ds.student.watchdog import Watchdog


def sleep_for_ever() -> None:
    """Hang in Python."""
    while True:
        time.sleep(3600)


def lock_for_ever() -> None:
    """Hang in C, as in a collective call: a signal does not end the wait for a mutex."""
    mutex = ctypes.create_string_buffer(64)  # zeros are an unlocked mutex
    library = ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def main() -> None:
    """Start the watchdog, enter a phase and hang."""
    run_dir, what, *settings = sys.argv[1:]
    spec = load_spec("tests/base_run.toml", [f"run_dir={run_dir}", *settings])
    phases = Phases()
    Watchdog(spec, rank=1, phases=phases).start()
    StopWish().listen()
    phases.enter("forward", step=4)
    print("ready", flush=True)
    sleep_for_ever() if what == "sleep" else lock_for_ever()


if __name__ == "__main__":
    main()
