"""The shipped job scripts, run by bash with stand-ins for SLURM's commands and for Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dskd_ds.runtime.job_script import filled_script, script_path

STAND_IN = """\
#!/bin/bash
# Notes how it was called, and does what the test wants instead.
name=$(basename "$0")
echo "$name $*" >> "$CALLS"
case "$name $*" in
  *"attempt begin"*) echo 1 ;;
  *"attempt end"*) echo "$DECISION" ;;
  *"attempt teachers-ended"*)
    if grep -q "scontrol requeue" "$CALLS"; then echo stop; else echo requeue; fi ;;
  "scontrol show hostnames"*) echo node1 ;;
  "scontrol -o show node"*) echo "NodeName=node1 NodeAddr=10.0.0.1 Port=1" ;;
  "scontrol requeue"*) exit 1 ;;
  "srun "*check-node*) if [[ -n $SENT ]]; then kill -s "$SENT" "$PPID"; fi; exit "$CHECK_CODE" ;;
  "srun "*dskd_ds.teacher*) exit 4 ;;
  "srun "*)
    echo "port $MASTER_PORT export $SLURM_EXPORT_ENV cpus $SRUN_CPUS_PER_TASK" >> "$CALLS" ;;
esac
"""
STUDENTS = "dskd_ds.train"
MPI_STAGES = ("pack", "senses", "teach")


class Script:
    """Runs a job script and returns how its commands were called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls = folder / "calls"
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name in ("srun", "scontrol", "python", "mpirun", "sleep"):
            path = self._bin / name
            path.write_text(STAND_IN)
            path.chmod(0o755)
        (folder / "slurm").mkdir()
        (folder / "slurm" / "environment.sh").touch()
        (folder / "runs" / "my" / "attempts" / "1").mkdir(parents=True)

    def run(self, stage: str, settings: dict[str, str] | None = None, **env: str) -> list[str]:
        text = script_path(f"{stage}.sbatch").read_text()
        script = self._folder / "script"
        script.write_text(filled_script(text, options={}, settings=settings or {}))
        self._calls.unlink(missing_ok=True)
        defaults = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "CALLS": str(self._calls),
            "DECISION": "stop",
            "SENT": "",
            "CHECK_CODE": "0",
            "SLURM_JOB_ID": "157",
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_NTASKS": "1",
            "SLURM_CPUS_PER_TASK": "8",
        }
        done = subprocess.run(
            ["bash", script],
            cwd=self._folder,
            env=defaults | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.code = done.returncode
        print(done.stderr)
        return self._calls.read_text().splitlines()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def ends(calls: list[str]) -> list[str]:
    """Return the exit code and the signal with which each attempt was ended."""
    found = [call.split("--exit-code ")[1] for call in calls if "attempt end" in call]
    return [" ".join(words.split()[:3]) for words in found]


def test_the_students_run_between_begin_and_end(script: Script) -> None:
    calls = script.run("train")
    assert script.code == 0
    assert any(STUDENTS in call for call in calls)
    assert ends(calls) == ["0 --stop-wish none"]


@pytest.mark.parametrize("code", [2, 137, 143])
def test_what_interrupted_the_node_check_is_not_called_wrong_input(
    script: Script, code: int
) -> None:
    calls = script.run("train", CHECK_CODE=str(code))
    assert script.code == code
    assert ends(calls) == [f"{code} --stop-wish none"]
    assert not any(STUDENTS in call for call in calls)


@pytest.mark.parametrize(("sent", "wish"), [("USR1", "time_limit"), ("TERM", "ending")])
def test_a_signal_during_the_node_check_ends_the_attempt_in_order(
    script: Script, sent: str, wish: str
) -> None:
    calls = script.run("train", SENT=sent)
    assert script.code == 3
    assert ends(calls) == [f"3 --stop-wish {wish}"]
    assert not any(STUDENTS in call for call in calls)


def test_a_refused_requeue_is_recorded(script: Script) -> None:
    # `sleep` runs beside the others, and may be killed before it is noted.
    calls = [call for call in script.run("train", DECISION="requeue") if call != "sleep 300"]
    assert calls[-2] == "scontrol requeue 157"
    assert "attempt not-requeued --run-dir runs/my --number 1" in calls[-1]


def test_a_job_of_an_array_requeues_itself_alone(script: Script) -> None:
    """The number of one of its jobs is that of the whole array."""
    array = {"SLURM_ARRAY_JOB_ID": "157", "SLURM_ARRAY_TASK_ID": "0"}
    calls = script.run("teachers", {"teachers_per_node": "2"}, **array)
    assert "scontrol requeue 157_0" in calls


@pytest.mark.parametrize(("job", "port"), [(156, 20000), (157, 20064), (311, 29920)])
def test_neighbouring_jobs_have_ports_of_their_own(script: Script, job: int, port: int) -> None:
    calls = script.run("train", SLURM_JOB_ID=str(job))
    assert f"port {port} export ALL cpus 8" in calls


@pytest.mark.parametrize("stage", ["train", "eval"])
def test_steps_get_the_scripts_variables_and_their_cores(script: Script, stage: str) -> None:
    calls = script.run(stage, SLURM_EXPORT_ENV="NONE")
    assert any("export ALL cpus 8" in call for call in calls)


@pytest.mark.parametrize("stage", MPI_STAGES)
def test_mpirun_is_that_beside_python(script: Script, stage: str) -> None:
    """Also for the setting of the script that ships, which is found on PATH."""
    calls = script.run(stage)
    assert script.code == 0
    assert calls[0].startswith("mpirun --bind-to none -n 1 python -m dskd_ds.commands.")
