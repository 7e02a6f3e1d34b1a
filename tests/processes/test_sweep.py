"""A study of real runs: killed with SIGKILL in the middle, and called again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, Start, dskd, wait_until

pytestmark = [pytest.mark.process, pytest.mark.slow]


def write_study(tiny: TinyWorld, folder: Path) -> Path:
    path = folder / "study.toml"
    path.write_text(
        f'name = "trial"\nbase = "{tiny.spec_file}"\nfolder = "{folder / "study"}"\n'
        "seeds = [0, 1]\n"
        '[settings]\n"train.num_steps" = 2\n"topology.num_students" = 1\n'
        '[arms.kd]\n"loss.sense_weight" = 0.0\n[arms.dskd]\n'
    )
    return path


@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("dictionary")
def test_a_killed_study_goes_on(tiny: TinyWorld, launch: Launch, start: Start) -> None:
    (tiny.folder / "sweep").mkdir()
    study = write_study(tiny, tiny.folder / "sweep")
    folder = study.parent / "study"
    first = start(*dskd("sweep", str(study)))
    finished = folder / "results" / "kd-0.json"
    next_run = folder / "logs" / "dskd-0.log"
    wait_until(lambda: finished.is_file() and next_run.is_file(), first, patience=600)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").glob("*.json")}
    ended = launch(*dskd("sweep", str(study)), marker=str(study), timeout=900)
    assert ended.code == 0
    for path, changed_at in before.items():
        assert path.stat().st_mtime_ns == changed_at, "a finished run was run again"
    results = sorted(path.stem for path in (folder / "results").glob("*.json"))
    assert results == sorted(f"{arm}-{seed}" for arm in ("kd", "dskd") for seed in range(2))
    table = (folder / "study.md").read_text()
    assert "4 of 4 runs are done" in table
    content = json.loads((folder / "study.json").read_text())
    assert {row["num_seeds"] for row in content["comparisons"]} == {2}
    assert len(list((folder / "cuts").iterdir())) == 1

    # Nothing is left to do: the third call only writes the same table again.
    assert launch(*dskd("sweep", str(study)), marker=str(study), timeout=900).code == 0
    assert (folder / "study.md").read_text() == table
