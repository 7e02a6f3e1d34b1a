"""`dskd status` reads any directory, and says so if it is not a run's."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from dskd_ds.commands import cli
from dskd_ds.commands.status import read_status
from dskd_ds.observe.run_files import RUN_START_FILE, RecordFile
from dskd_ds.observe.status import Status
from dskd_ds.student.run_lock import LEASE_FILE, RunLock
from tests.unit.observe.made_runs import START, metric


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of an older version: a spec, some records, the last of which is half written."""
    folder = tmp_path / "runs" / "my"
    folder.mkdir(parents=True)
    (folder / "spec.toml").write_text('name = "my"\n[train]\nnum_steps = 9\n')
    lines = "".join(json.dumps(metric(step)) + "\n" for step in (1, 2, 3))
    (folder / "metrics.jsonl").write_text(lines + '{"step": 4, "lo')
    return folder


def status_of(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> Status:
    """Return what `dskd status --json` prints."""
    assert cli.main(["status", str(run_dir), "--json"]) == 0
    return Status.model_validate_json(capsys.readouterr().out)


def test_a_run_of_an_older_version(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run_dir.rglob("*"))
    status = status_of(run_dir, capsys)
    assert (status.state, status.step, status.num_steps, status.name) == ("dead", 3, 9, "my")
    assert status.command == f"dskd train {run_dir}/spec.toml"
    assert sorted(run_dir.rglob("*")) == before  # nothing is written
    assert cli.main(["status", str(run_dir)]) == 0
    assert "step 3 of 9" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe", b"[1, 2]\n3\nnull\n", b'{"loss": 1}\n{"step": "x"}\n'],
)
def test_damaged_files_do_not_matter(
    run_dir: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("progress/ends", "attempts", "checkpoints/step-abc"):
        (run_dir / name).mkdir(parents=True)
    for name in (
        "metrics.jsonl",
        "spec.toml",
        LEASE_FILE,
        "progress/run.json",
        "progress/student-00000.json",
        "progress/teacher-00000-a-1.json",
        "progress/ends/student-00000.json",
        "attempts/1.json",
        "checkpoints/step-abc/manifest.json",
    ):
        (run_dir / name).write_bytes(content)
    status = status_of(run_dir, capsys)
    assert (status.state, status.step) == ("never started", 0)


def test_a_long_metrics_file_is_read_from_its_end(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (run_dir / "metrics.jsonl").open("w") as file:
        for step in range(1, 5001):
            file.write(json.dumps(metric(step)) + "\n")
    assert status_of(run_dir, capsys).step == 5000


def test_a_mistyped_directory_suggests_the_near_one(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", str(run_dir.with_name("mi"))]) == 2
    message = capsys.readouterr().err
    assert "there is no such run directory" in message
    assert f"did you mean {run_dir}?" in message
    assert cli.main(["status", str(run_dir.parent)]) == 2
    message = capsys.readouterr().err
    assert "this is not a run directory" in message
    assert f"did you mean {run_dir}?" in message


def test_a_spec_names_its_run_which_may_not_have_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("tests/base_run.toml").read_text()
    spec = tmp_path / "my.toml"
    spec.write_text(text.replace('run_dir = "runs/quickstart"', f'run_dir = "{tmp_path}/run"'))
    assert cli.main(["status", str(spec), "--json"]) == 0
    status = Status.model_validate_json(capsys.readouterr().out)
    assert (status.run_dir, status.state) == (f"{tmp_path}/run", "never started")


def test_the_run_lock_says_whether_it_lives(run_dir: Path) -> None:
    lock = RunLock(run_dir)
    lock.acquire()
    try:
        started = time.time() - 60
        start = START.model_copy(update={"pid": os.getpid(), "started": started, "first_step": 0})
        RecordFile(run_dir / RUN_START_FILE).write(start)
        status = read_status(run_dir)
        assert status.state == "running"
        assert f"process {os.getpid()} on " in status.headline
        assert status.eta_seconds == pytest.approx((100 - 3) * 2.0)
    finally:
        lock.release()
    assert read_status(run_dir).state == "dead"


def test_the_lease_of_another_machine_counts_by_its_age(run_dir: Path) -> None:
    lock = RunLock(run_dir)
    lock.acquire()
    content = (run_dir / LEASE_FILE).read_text()
    lock.release()
    lease = json.loads(content) | {"machine": "another boot", "host": "node9"}
    (run_dir / LEASE_FILE).write_text(json.dumps(lease))
    assert read_status(run_dir).state == "running"
    old = time.time() - 300
    os.utime(run_dir / LEASE_FILE, (old, old))
    assert read_status(run_dir).state == "dead"
