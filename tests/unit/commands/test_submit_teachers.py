"""Options of `dskd submit` for teachers on nodes of their own."""

from __future__ import annotations

import pytest

from dskd_ds.errors import InputError
from tests.unit.commands.test_submit import jobs


@pytest.mark.parametrize("flag", ["--het", "--teachers-job"])
def test_the_chosen_teachers_of_a_node_count_also_where_the_node_holds_more(flag: str) -> None:
    size = ("--gpus-per-node", "2", flag, "--num-teachers", "4", "--teachers-per-node", "3")
    script = jobs(*size, "--het-sbatch", "gpus-per-node=4")[-1]
    assert "teachers_per_node=3" in script.splitlines()
    assert "#SBATCH --ntasks-per-node=3" in script.splitlines()


def test_teachers_in_jobs_of_their_own_may_have_another_limit() -> None:
    size = ("--gpus-per-node", "2", "--teachers-job", "--time", "2:00:00")
    students, teachers = jobs(*size, "--het-sbatch", "time=8:00:00")
    assert "#SBATCH --time=2:00:00" in students.splitlines()
    assert "#SBATCH --time=8:00:00" in teachers.splitlines()


@pytest.mark.parametrize("flag", ["--het", "--teachers-job"])
def test_nodes_of_teachers_must_hold_a_whole_teacher(flag: str) -> None:
    size = ("--gpus-per-node", "8", "--set", "topology.ranks_per_teacher=4")
    message = r"gpus-per-node=2: \[topology\] ranks_per_teacher = 4(.|\n)*give gpus-per-node=4"
    with pytest.raises(InputError, match=message):
        jobs(*size, flag, "--het-sbatch", "gpus-per-node=2")


@pytest.mark.parametrize("flag", ["--het", "--teachers-job"])
def test_a_run_without_teachers_has_no_nodes_for_them(flag: str) -> None:
    cached = ("teacher.source=cache", "topology.num_teachers=0", "repair.steps=0")
    settings = [word for setting in cached for word in ("--set", setting)]
    with pytest.raises(InputError, match=f"{flag}: this run has no teachers"):
        jobs("--gpus-per-node", "8", flag, *settings)
