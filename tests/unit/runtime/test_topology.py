"""Roles and worlds of ranks, from the environment that each launcher sets."""

from __future__ import annotations

import os
import sys

import pytest

from dskd_ds.errors import ExitCode, InputError
from dskd_ds.runtime.launchers import Launch, local_rank, read_launch, read_launch_of_teachers
from dskd_ds.runtime.topology import assign, leads_node, role_environment, teacher_of_step
from dskd_ds.spec.processes import TopologySpec
from dskd_ds.teacher import __main__ as teacher_main

TOPOLOGY = TopologySpec(num_students=2, num_teachers=1)


def environment(launcher: str, rank: int) -> dict[str, str]:
    """Return the variables that a launcher sets for rank `rank` of 3 on one node."""
    environments = {
        "deepspeed": {
            "RANK": str(rank),
            "WORLD_SIZE": "3",
            "LOCAL_RANK": str(rank),
            "LOCAL_SIZE": "3",
            "CROSS_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29511",
        },
        "torch": {
            "RANK": str(rank),
            "WORLD_SIZE": "3",
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": "3",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "29511",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        },
        "mpirun": {
            "OMPI_COMM_WORLD_RANK": str(rank),
            "OMPI_COMM_WORLD_SIZE": "3",
            "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
            "OMPI_COMM_WORLD_LOCAL_SIZE": "3",
        },
        "srun": {
            "SLURM_PROCID": str(rank),
            "SLURM_NTASKS": "3",
            "SLURM_LOCALID": str(rank),
            "SLURM_NODEID": "0",
            "SLURM_STEP_TASKS_PER_NODE": "3",
        },
    }
    return environments[launcher]


@pytest.mark.parametrize("launcher", ["deepspeed", "torch", "mpirun", "srun"])
def test_roles_are_the_same_under_every_launcher(launcher: str) -> None:
    roles = [assign(read_launch(environment(launcher, rank)), TOPOLOGY) for rank in range(3)]
    assert [(role.kind, role.rank, role.size) for role in roles] == [
        ("student", 0, 2),
        ("student", 1, 2),
        ("teacher", 0, 1),
    ]
    assert roles[0].launch.launcher == launcher


@pytest.mark.parametrize("launcher", ["deepspeed", "torch", "mpirun", "srun"])
def test_students_share_a_world_and_each_teacher_has_its_own(launcher: str) -> None:
    worlds = [
        role_environment(assign(read_launch(environment(launcher, rank)), TOPOLOGY))
        for rank in range(3)
    ]
    assert [(w["RANK"], w["WORLD_SIZE"], w["LOCAL_RANK"]) for w in worlds] == [
        ("0", "2", "0"),
        ("1", "2", "1"),
        ("0", "1", "2"),
    ]
    assert worlds[0]["MASTER_PORT"] == worlds[1]["MASTER_PORT"] != worlds[2]["MASTER_PORT"]
    # Students use the store of torchrun's agent, which listens on their port; teachers do not.
    assert all("TORCHELASTIC_USE_AGENT_STORE" not in world for world in worlds[:2])
    assert worlds[2]["TORCHELASTIC_USE_AGENT_STORE"] == "False"


def test_every_rank_of_a_larger_launch_has_one_role() -> None:
    topology = TopologySpec(num_students=6, num_teachers=2)
    roles = []
    for rank in range(8):
        env = {
            "RANK": str(rank),
            "WORLD_SIZE": "8",
            "LOCAL_RANK": str(rank % 4),
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "node0",
        }
        roles.append(assign(read_launch(env), topology))
    expected = [("student", rank) for rank in range(6)] + [("teacher", rank) for rank in range(2)]
    assert [(role.kind, role.rank) for role in roles] == expected
    ports = [role_environment(role)["MASTER_PORT"] for role in roles if role.kind == "teacher"]
    assert len(set(ports)) == 2


def launch_of(rank: int, num_ranks: int, per_node: int) -> Launch:
    """Return a rank of a launch with so many ranks on each node."""
    return read_launch(
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_RANK": str(rank % per_node),
            "LOCAL_WORLD_SIZE": str(per_node),
            "MASTER_ADDR": "node0",
        }
    )


def test_the_ranks_of_a_teacher_meet_in_a_world_of_their_own() -> None:
    topology = TopologySpec(num_students=2, num_teachers=3, ranks_per_teacher=2)
    roles = [assign(launch_of(rank, 8, 4), topology) for rank in range(8)]
    places = [(role.rank, role.teacher_rank.rank) for role in roles if role.kind == "teacher"]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    worlds = [role_environment(role) for role in roles[2:]]
    assert [world["WORLD_SIZE"] for world in worlds] == ["2"] * 6
    ports = [world["MASTER_PORT"] for world in worlds]
    assert ports[::2] == ports[1::2]
    assert len({roles[0].launch.master_port, *map(int, ports)}) == 4
    assert {role.size for role in roles[2:]} == {3}


def test_teachers_have_ports_among_the_64_of_their_job() -> None:
    """The job scripts start a step for each node, with the number of its first teacher."""
    topology = TopologySpec(num_students=2, num_teachers=0, ranks_per_teacher=2)
    ports = []
    for first in range(0, 160, 2):
        role = teacher_of_step(launch_of(0, 4, 4), topology, first)
        other = teacher_of_step(launch_of(2, 4, 4), topology, first)
        assert role.teacher_rank.port != other.teacher_rank.port
        ports += [role.teacher_rank.port, other.teacher_rank.port]
    master_port = role.launch.master_port
    assert set(ports) == set(range(master_port + 1, master_port + 64))


def test_a_teacher_on_two_nodes_is_refused_on_all_of_its_ranks() -> None:
    topology = TopologySpec(num_students=3, num_teachers=1, ranks_per_teacher=2)
    for rank in (3, 4):
        with pytest.raises(InputError, match="the ranks of teacher 0 are on two nodes"):
            assign(launch_of(rank, 5, 4), topology)


def test_a_launch_of_teachers_only() -> None:
    topology = TopologySpec(num_students=1, ranks_per_teacher=2)
    roles = [teacher_of_step(launch_of(rank, 4, 4), topology, 6) for rank in range(4)]
    assert [(role.rank, role.teacher_rank.rank) for role in roles] == [
        (6, 0),
        (6, 1),
        (7, 0),
        (7, 1),
    ]
    with pytest.raises(InputError, match="has 3 ranks, which is no multiple of"):
        teacher_of_step(launch_of(0, 3, 3), topology, 0)


@pytest.mark.parametrize(
    ("tasks", "num_tasks", "node", "local"),
    [
        ("8(x2)", 16, 1, 8),
        ("4,2", 6, 0, 4),
        ("4,2", 6, 1, 2),
        ("2(x2),1", 5, 1, 2),
        ("2(x2),1", 5, 2, 1),
        ("3,1(x2)", 5, 2, 1),
        ("1(x3)", 3, 0, 1),
    ],
)
def test_srun_over_nodes_needs_an_address(
    tasks: str, num_tasks: int, node: int, local: int
) -> None:
    """The variables are those that a real srun (22.05) sets without --ntasks-per-node.

    With that option SLURM_NTASKS_PER_NODE may be the whole job's.
    """
    env = {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": str(num_tasks),
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(node),
        "SLURM_STEP_TASKS_PER_NODE": tasks,
    }
    for variant in (env, env | {"SLURM_NTASKS_PER_NODE": str(num_tasks)}):
        with pytest.raises(InputError, match="-x MASTER_ADDR"):
            read_launch(variant)
        launch = read_launch(variant | {"MASTER_ADDR": "node0"})
        assert launch.master_addr == "node0"
        assert launch.local_world_size == local
        assert launch.spans_nodes


def test_a_batch_script_is_not_a_task_of_srun() -> None:
    script = {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "3",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS_PER_NODE": "3",
    }
    with pytest.raises(InputError, match=r"srun did not start this process.*\n.*start ranks with"):
        read_launch(script)
    assert read_launch(script | {"SLURM_NTASKS": "1"}).world_size == 1
    # A teacher may be started there, alone.
    alone = read_launch_of_teachers(script)
    assert (alone.rank, alone.world_size) == (0, 1)


def test_teachers_of_one_rank_have_numbers_of_their_own_and_need_no_address() -> None:
    tasks = {"SLURM_NTASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    topology = TopologySpec(num_students=1, num_teachers=0)
    roles = [
        teacher_of_step(
            read_launch_of_teachers(
                tasks | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % 2)}
            ),
            topology,
            4,
        )
        for rank in range(4)
    ]
    assert [role.rank for role in roles] == [4, 5, 6, 7]
    assert [leads_node(role) for role in roles] == [True, False, True, False]
    alone = teacher_of_step(read_launch_of_teachers({}), topology, 4)
    assert (alone.rank, alone.size) == (4, 1)


def test_contradicting_variables_are_refused() -> None:
    with pytest.raises(InputError, match="MPI's world has 5"):
        read_launch(environment("deepspeed", 0) | {"OMPI_COMM_WORLD_SIZE": "5"})
    with pytest.raises(InputError, match="not below"):
        read_launch(environment("deepspeed", 3))
    with pytest.raises(InputError, match="start ranks with"):
        read_launch(environment("deepspeed", 0) | {"RANK": "first"})
    launch = read_launch(environment("deepspeed", 0))
    with pytest.raises(InputError, match=r"launch has 3 ranks, but .* make 5"):
        assign(launch, TopologySpec(num_students=4, num_teachers=1))


def test_a_process_without_a_launcher_is_a_launch_of_one_rank() -> None:
    assert read_launch({}).world_size == 1


@pytest.mark.parametrize("launcher", ["deepspeed", "torch", "mpirun", "srun"])
def test_the_number_on_the_node_names_the_device(launcher: str) -> None:
    assert local_rank(environment(launcher, 2)) == "2"
    assert local_rank({}) == "0"


@pytest.mark.parametrize("launcher", ["deepspeed", "torch", "mpirun"])
def test_a_launcher_within_a_job_wins_over_the_job(launcher: str) -> None:
    """All its ranks inherit the variables of the script, which is task 0."""
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_LOCALID": "0"}
    assert local_rank(script | environment(launcher, 2)) == "2"


def test_a_teacher_takes_the_device_that_mpirun_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "")  # so that it is restored after the test
    monkeypatch.delenv("LOCAL_RANK")
    for name, value in (environment("mpirun", 2) | {"SLURM_LOCALID": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["teacher", "--spec", "missing.toml"])
    assert teacher_main.main() == ExitCode.WRONG_INPUT
    assert os.environ["LOCAL_RANK"] == "2"
