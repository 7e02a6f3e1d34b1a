"""One rank of the verdict test: goes through all cases and stores the verdict of each.

python -m tests.unit.student.verdict_worker OUT.json, with torch.distributed's variables set
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from dskd_ds.errors import NoTeacherError
from dskd_ds.runtime.world import open_world
from dskd_ds.student.verdict import Prepared, all_reduce_verdict

ERRORS: dict[str, dict[int, Exception]] = {
    "one has an OSError": {1: OSError("stale file handle")},
    "two errors": {0: NoTeacherError("none came"), 1: ValueError("shape")},
}
"""Case -> rank -> what it meets."""

CASES = (
    "all well",
    "one is to stop",
    "a save is due",
    "one has written",
    "all have written",
    "one has met a teacher",
    *ERRORS,
)


def main() -> None:
    """Take part in every case, in the same order as the other ranks."""
    import deepspeed

    open_world()
    rank = deepspeed.comm.get_rank()
    found = {}
    for case in CASES:
        error = ERRORS.get(case, {}).get(rank)
        prepared = Prepared(error=error) if error else Prepared(counts=(rank + 1, 1))
        verdict = all_reduce_verdict(
            prepared,
            is_stop_wanted=(case, rank) == ("one is to stop", 1),
            is_save_due=(case, rank) == ("a save is due", 0),
            is_save_written=case == "all have written" or (case, rank) == ("one has written", 1),
            is_teacher_new=(case, rank) == ("one has met a teacher", 1),
        )
        found[case] = asdict(verdict)
    for verdict in found.values():
        verdict["counts"] = list(verdict["counts"].values())
    Path(sys.argv[1]).write_text(json.dumps(found))
    deepspeed.comm.barrier()  # no rank leaves while another still needs it
    # Without it gloo's threads may still run when the process ends, which then aborts.
    deepspeed.comm.destroy_process_group()


if __name__ == "__main__":
    main()
