"""The README's lines from an empty account to a running job, each run as it is written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dskd_ds.observe.attempts import read_attempts
from tests.conftest import TinyWorld
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Runs, log_of

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1500)]
# The environment of the tests serves as the one that `make` would install: CI makes one from an
# empty clone in its first step. The editor is a function that appends what a user would write.
PRELUDE = """\
set -euo pipefail
nano() {{
  case $1 in
    *.sh) echo 'echo "environment of the site"' >> "$1" ;;
    *) sed -i 's/^num_steps.*/num_steps = 4/; s/zero3.json/zero3_cpu.json/' "$1"
       sed -i 's/^heldout_fraction = 0.02/heldout_fraction = 0.3/' "$1" ;;
  esac
}}
git() {{ command git "$@" && mkdir dskd-ds/.venv && ln -s {bin} dskd-ds/.venv/bin &&
  touch -d "next year" dskd-ds/.venv/.ready; }}
export PYTHONPATH={clone}
"""


def readme_lines() -> str:
    """Return the README's block for SLURM."""
    section = Path("README.md").read_text().split("## On a cluster")[1]
    block = re.search(r"```sh\n(git clone .*?)```", section, re.DOTALL)
    assert block
    return block[1]


def test_from_an_empty_account_to_a_trained_student(
    cluster: Cluster, runs: Runs, tiny: TinyWorld, tmp_path: Path
) -> None:
    home = tiny.folder / "home"
    shutil.copytree(tiny.folder / "wordnet", home / "quickstart" / "wordnet", dirs_exist_ok=True)
    lines = readme_lines().replace("REPOSITORY", str(Path.cwd()))
    lines = lines.replace("NAME", str(tiny.folder / "teacher"))
    lines = lines.replace("PATH", str(tiny.folder / "train.jsonl"))
    clone = tmp_path / "dskd-ds"
    prelude = PRELUDE.format(bin=Path(sys.executable).parent, clone=clone)
    done = subprocess.run(
        ["bash", "-c", prelude + lines],
        cwd=tmp_path,
        env=runs.env,
        capture_output=True,
        text=True,
        timeout=480,
    )
    print(done.stdout[-3000:], done.stderr[-3000:])
    assert done.returncode == 0
    spec = tomllib.loads((clone / "my.toml").read_text())
    assert spec["topology"]["num_students"] == 2
    jobs = re.findall(r"^(\w+): job (\d+)", done.stdout, re.MULTILINE)
    assert [stage for stage, _ in jobs] == ["senses", "train", "eval"]
    run_dir = clone / "runs" / "my"
    for stage, job in jobs:
        state = cluster.wait_for_end(job)
        assert state == "COMPLETED", f"{stage}: {log_of(run_dir)}"
    (attempt,) = read_attempts(run_dir)
    assert (attempt.job_id, attempt.reason, len(attempt.nodes)) == (jobs[1][1], "done", 3)
    assert (run_dir / "student" / "model.safetensors").is_file()
    assert (run_dir / "evaluation.json").is_file()
    assert (run_dir / "report.html").is_file()
    assert "environment of the site" in log_of(run_dir)
