"""A real teacher whose forward passes take a given time: `python -m ... SECONDS --spec ...`.

It computes the reply as always, and then sleeps until the time is over. So the time does not depend
on what else the machine does.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from dskd_ds.teacher import __main__ as teacher_main
from dskd_ds.teacher import service


def main() -> int:
    """Serve as `python -m dskd_ds.teacher` does, with slow forward passes."""
    seconds = float(sys.argv.pop(1))
    compute = service.compute

    def slow_compute(*args: Any) -> Any:
        started = time.monotonic()
        computed = compute(*args)
        time.sleep(max(0.0, seconds - (time.monotonic() - started)))
        return computed

    service.compute = slow_compute
    return teacher_main.main()


if __name__ == "__main__":
    sys.exit(main())
