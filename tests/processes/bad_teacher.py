"""A real teacher with one change: `python -m tests.processes.bad_teacher MODE GATE --spec ...`.

fails   every forward pass raises, as with a broken library; makes the file GATE at the third one
breaks  answers FREE_REQUESTS, and then every forward pass raises
waits   answers FREE_REQUESTS, and the others once the file GATE is there
hangs   answers FREE_REQUESTS, and then makes the file GATE and hangs for ever in a forward pass
slow    takes ten times as long for every forward pass
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from dskd_ds.teacher import __main__ as teacher_main
from dskd_ds.teacher import service

FREE_REQUESTS = 8
"""Enough for step 1, if one student asks for three steps of two micro-batches before the other."""


def main() -> int:
    mode, gate = sys.argv.pop(1), Path(sys.argv.pop(1))
    compute = service.compute
    num_requests = 0

    def changed_compute(*args: Any) -> Any:
        nonlocal num_requests
        num_requests += 1
        is_broken = mode == "breaks" and num_requests > FREE_REQUESTS
        if mode == "fails" and num_requests == 3:
            gate.touch()
        if mode == "fails" or is_broken:
            raise RuntimeError("cuBLAS is broken")
        if mode == "hangs" and num_requests > FREE_REQUESTS:
            gate.touch()
            threading.Event().wait()
        while mode == "waits" and num_requests > FREE_REQUESTS and not gate.exists():
            threading.Event().wait(0.05)
        started = time.monotonic()
        computed = compute(*args)
        if mode == "slow":
            time.sleep(9 * (time.monotonic() - started))
        return computed

    service.compute = changed_compute
    return teacher_main.main()


if __name__ == "__main__":
    sys.exit(main())
