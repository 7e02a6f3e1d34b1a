"""One rank of a training whose student 1 becomes slow on purpose, at step `FIRST_SLOW_STEP`.

Started by a launcher, with the arguments of dskd_ds/train.py. From then on student 1 sleeps in each
forward pass, so long that its own work takes `FACTOR` times as long as before.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import Any

from dskd_ds import train
from dskd_ds.student.model import DistillStudent
from dskd_ds.student.step_health import RankStep, StepHealth, compute_seconds

FIRST_SLOW_STEP = 12
WARM_UP_STEPS = 2
FACTOR = 4.0


def slow_down() -> None:
    """Let this process sleep in its forward passes from `FIRST_SLOW_STEP` on."""
    own_work: list[float] = []
    end_step, forward = StepHealth.end_step, DistillStudent.forward

    def noting_end_step(self: StepHealth, *args: Any) -> RankStep:
        step = end_step(self, *args)
        own_work.extend(compute_seconds([step], is_overlapping=False))
        return step

    def slow_forward(self: DistillStudent, *args: Any, **kwargs: Any) -> Any:
        if len(own_work) >= FIRST_SLOW_STEP:
            usual = statistics.median(own_work[WARM_UP_STEPS:FIRST_SLOW_STEP])
            time.sleep((FACTOR - 1) * usual / num_forwards)
        return forward(self, *args, **kwargs)

    num_forwards = int(os.environ["FORWARDS_PER_STEP"])
    StepHealth.end_step = noting_end_step
    DistillStudent.forward = slow_forward


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        slow_down()
    sys.exit(train.main())
