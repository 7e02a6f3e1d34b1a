"""Saves checkpoints and metrics on a small disk of its own that gets full and read-only.

    unshare --user --map-root-user --mount python -m tests.unit.student.full_disk_worker FOLDER

FOLDER gets the disk, which only this process sees. Prints as JSON what happened.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dskd_ds.errors import SaveError
from dskd_ds.observe.metrics import MetricsWriter, read_metrics
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.checkpoint.folders import checkpoint_dir, complete_tags
from tests.unit.student.ranks import use_ranks
from tests.unit.student.small_engine import SmallEngine, checkpoints_of, save

DISK_BYTES = 128 << 10
MOST_STEPS = 100
"""More checkpoints than the disk has room for."""
NUM_RECORDS = 200
"""More records of metrics than fit into the page of memory that the file of metrics has."""


def mount(folder: Path, *options: str) -> None:
    """Mount a disk in memory, or change how it is mounted."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    subprocess.run(command, check=True)


def reason(engine: SmallEngine, spec: RunSpec, step: int) -> str:
    """Save, and return the first line of why that failed; "" if it did not."""
    try:
        save(engine, spec, step)
    except SaveError as error:
        return str(error).splitlines()[0]
    return ""


def resumed_step(spec: RunSpec) -> int:
    """Return the step that a run would go on from; its numbers must be those of that step."""
    engine = SmallEngine()
    progress = checkpoints_of(engine, spec).resume()
    assert progress is not None
    assert engine.numbers() == SmallEngine().train(progress.step).numbers()
    return progress.step


def facts(spec: RunSpec) -> dict[str, object]:
    """Return what is on the disk."""
    folders = sorted(path.name for path in checkpoint_dir(spec).iterdir())
    return {"only_complete": folders == complete_tags(spec), "resumed_step": resumed_step(spec)}


@contextmanager
def blocked(folder: Path) -> Iterator[None]:
    """Take all that is free of the disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    yield
    filler.unlink()


def write_metrics(metrics: MetricsWriter, steps: Iterable[int]) -> None:
    """Write the records of some steps."""
    for step in steps:
        metrics.write({"step": step, "sense_with_antonyms": 0.0, "sense_with_neighbours": 0.0})


def run(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, object]:
    """Fill the disk, make it read-only, and then larger; return what happened."""
    use_ranks(patch, 1)
    settings = ["checkpoint.keep=100", "topology.num_students=1", "monitor.tensorboard=false"]
    settings += ["monitor.log_every_steps=1", f"run_dir={folder}"]
    spec = load_spec("tests/base_run.toml", settings)
    mount(folder, f"size={DISK_BYTES}")
    metrics = MetricsWriter(spec, first_step=0, last_step=NUM_RECORDS)
    write_metrics(metrics, [1])
    step, engine, failed = 0, SmallEngine(), ""
    while not failed and step < MOST_STEPS:
        step += 1
        failed = reason(engine.train(1), spec, step)
    found: dict[str, object] = {}
    found["full"] = {"reason": failed, "last_saved": step - 1, **facts(spec)}
    with blocked(folder):
        write_metrics(metrics, range(2, NUM_RECORDS))
        num_written = len(read_metrics(folder))
        found["no byte free"] = {"reason": reason(engine, spec, step), **facts(spec)}
    write_metrics(metrics, [NUM_RECORDS])
    metrics.close()
    found["metrics"] = [num_written, *(record["step"] for record in read_metrics(folder))]
    mount(folder, "remount", "ro")
    found["read-only"] = {"reason": reason(engine, spec, step), **facts(spec)}
    mount(folder, "remount", "rw", f"size={2 * DISK_BYTES}")
    found["free again"] = {"reason": reason(engine, spec, step), "step": step, **facts(spec)}
    return found


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as monkeypatch:
        print(json.dumps(run(Path(sys.argv[1]), monkeypatch)))
