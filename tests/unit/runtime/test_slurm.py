"""What SLURM's commands print, and how a refusal is passed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.runtime import slurm

STEP_MESSAGES = """\
srun: error: node2: task 1: Exited with exit code 2
srun: launch/slurm: _step_signal: Terminating StepId=1.2
srun: error: node1: task 0: Terminated
"""
TASK_OUTPUT = """\
step 7
slurmstepd-node1: error: *** STEP 1.3 ON node1 CANCELLED AT 2026-11-25T17:34:32{cause} ***
"""


def test_the_first_failure_is_the_one_that_counts() -> None:
    assert slurm.first_failure(STEP_MESSAGES) == slurm.TaskFailure(1, 2)
    assert slurm.first_failure("srun: error: n1: tasks 0-3: Exited with exit code 3") == (
        slurm.TaskFailure(0, 3)
    )
    assert slurm.first_failure("srun: error: Node failure on node2") is None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Killed", 137),
        ("Out Of Memory", 137),
        ("Segmentation fault (core dumped)", 139),
        ("Aborted", 134),
        ("Bus error", 135),
        ("Terminated", 143),
        ("User defined signal 1", 138),
        ("unknown words", None),
    ],
)
def test_a_task_that_a_signal_ended_has_a_shells_exit_code(words: str, code: int | None) -> None:
    message = f"srun: error: n1: task 5: {words}\nsrun: error: n1: task 0: Terminated\n"
    assert slurm.first_failure(message) == slurm.TaskFailure(5, code)


def test_the_cause_of_an_end_is_read_from_the_tasks_output() -> None:
    assert slurm.cause_of_end(TASK_OUTPUT.format(cause=" DUE TO TIME LIMIT")) == "TIME LIMIT"
    node_failure = " DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"
    assert slurm.cause_of_end(TASK_OUTPUT.format(cause=node_failure)) == "NODE FAILURE"
    assert slurm.cause_of_end(TASK_OUTPUT.format(cause="")) == ""
    assert slurm.cause_of_end("step 7") == ""


@pytest.fixture
def scontrol(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Answers of SLURM's commands by a word of their command line."""
    answers: dict[str, str] = {}

    def output(command: list[str]) -> str:
        return next((text for word, text in answers.items() if word in command), "")

    monkeypatch.setattr(slurm, "_output", output)
    return answers


def test_a_job_is_read_with_all_its_components(scontrol: dict[str, str]) -> None:
    scontrol["job"] = (
        "JobId=1 JobState=COMPLETING ReqNodeList=(null) ExcNodeList=(null) NodeList=n[1-2]\n"
        "JobId=2 JobState=RUNNING ReqNodeList=(null) ExcNodeList=(null) NodeList=n3\n"
    )
    scontrol["n[1-2]"], scontrol["n3"] = "n1\nn2\n", "n3\n"
    assert slurm.read_job("1") == slurm.JobFacts("COMPLETING", ("n1", "n2", "n3"))


@pytest.mark.usefixtures("scontrol")
def test_without_an_answer_nothing_is_known() -> None:
    assert slurm.read_job("1") == slurm.JobFacts("", ())
    assert slurm.failed_nodes(["n1"]) == []


def test_failed_nodes_are_those_that_are_down(scontrol: dict[str, str]) -> None:
    scontrol["sinfo"] = "n1 idle\nn2 down*\nn3 mixed\n"
    assert slurm.failed_nodes(["n1", "n2", "n3"]) == ["n2"]


def test_a_refusal_gives_slurms_reason_and_the_partitions() -> None:
    reason = (
        "sbatch: error: invalid partition specified: nix\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    message = slurm.refusal(Path("slurm/train.sbatch"), reason, "PARTITION GRES\nmain* gpu:2\n")
    assert message.splitlines() == [
        "train.sbatch: SLURM refuses this job: invalid partition specified: nix;"
        " Invalid partition name specified.",
        "  change --partition, --nodes, --gpus-per-node or the option that does not fit."
        " The partitions are:",
        "  PARTITION GRES",
        "  main* gpu:2",
    ]


def test_a_machine_without_slurm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="submit from a login node"):
        slurm.require_slurm()
