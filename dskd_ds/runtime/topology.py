"""Launchers, roles and the environment of each role: the whole rank grid on one screen.

A launch of W ranks is dealt as  [ student 0 .. S-1 | teacher 0 .. T-1 ].  Students form one torch.distributed world; each
teacher is a world of its own, because DeepSpeed puts barriers on the global world (docs/deepspeed.md, "Roles and worlds"). So before anything
initialises torch.distributed, `RANK`, `WORLD_SIZE` and `MASTER_PORT` are rewritten for the role; `LOCAL_RANK` stays, it
names the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dskd_ds.errors import InputError
from dskd_ds.spec.processes import TopologySpec

DEFAULT_PORT = 29500
RoleKind = Literal["student", "teacher"]


@dataclass(frozen=True)
class Launch:
    """Where this process stands in its launch, whoever started it."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_addr: str
    master_port: int

    @property
    def spans_nodes(self) -> bool:
        """Whether some of its ranks are on another machine."""
        return self.local_world_size < self.world_size


@dataclass(frozen=True)
class Role:
    """What this process does."""

    kind: RoleKind
    rank: int
    """Rank within the role."""
    size: int
    """Processes of the role."""
    launch: Launch

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks for its launch: global rank 0."""
        return self.launch.rank == 0


# launcher -> (rank, world size, local rank, local world size); tried in this order: a launcher that sets torch's own
# variables wins over the MPI or SLURM step around it.
LAUNCHERS: dict[str, tuple[str, str, str, str]] = {
    "torch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}


def read_launch(env: Mapping[str, str]) -> Launch:
    """Read the launch from the environment that `deepspeed`, `torchrun`, `mpirun` or `srun` made.

    Raises InputError if the variables contradict each other or no address is known for a world of several nodes.
    """
    for launcher, (rank, size, local_rank, local_size) in LAUNCHERS.items():
        if rank in env and size in env:
            return _launch(env, launcher, rank, size, local_rank, local_size)
    return Launch("none", 0, 1, 0, 1, "127.0.0.1", DEFAULT_PORT)


def _launch(
    env: Mapping[str, str], launcher: str, rank: str, size: str, local_rank: str, local_size: str
) -> Launch:
    name = "deepspeed" if launcher == "torch" and "CROSS_RANK" in env else launcher
    try:
        world_size = int(env[size])
        # LOCAL_SIZE is what the deepspeed launcher calls it.
        local_text = env.get(local_size) or env.get("LOCAL_SIZE") or str(world_size)
        num_local = _tasks_of_node(env, world_size) if launcher == "srun" else int(local_text)
        launch = Launch(
            name,
            int(env[rank]),
            world_size,
            int(env.get(local_rank, "0")),
            num_local,
            master_addr=env.get("MASTER_ADDR", ""),
            master_port=int(env.get("MASTER_PORT", DEFAULT_PORT)),
        )
    except ValueError as error:
        raise InputError(
            f"environment of {name}: {error}.\n  start ranks with deepspeed, torchrun, mpirun or srun."
        ) from None
    if not 0 <= launch.rank < launch.world_size:
        raise InputError(
            f"environment of {name}: {rank}={launch.rank} is not below {size}={launch.world_size}.\n"
            "  two launchers' variables are mixed: start from a clean shell."
        )
    _refuse_other_world(env, launch, name)
    if launch.master_addr:
        return launch
    if launch.spans_nodes:
        raise InputError(
            f"environment of {name}: {world_size} ranks on several nodes, but MASTER_ADDR is not set.\n"
            "  export MASTER_ADDR=<host of rank 0> before the launch (mpirun: and hand it on with -x MASTER_ADDR)."
        )
    return Launch(**{**launch.__dict__, "master_addr": "127.0.0.1"})


def _tasks_of_node(env: Mapping[str, str], world_size: int) -> int:
    """This job step's tasks on this node, of srun's list by node: "8(x2)", or "4,2(x3)". Raises ValueError if there is no such list.

    SLURM_NTASKS_PER_NODE will not do: it is there only if --ntasks-per-node was given, and may be another step's.
    """
    listed = env.get("SLURM_STEP_TASKS_PER_NODE", "")
    if not listed and world_size > 1:
        raise ValueError(
            f"SLURM_NTASKS={world_size}, but srun did not start this process (no SLURM_STEP_TASKS_PER_NODE)"
        )
    counts: list[int] = []
    for part in listed.split(",") if listed else ("1",):
        number, _, repeated = part.partition("(x")
        counts += [int(number)] * int(repeated.rstrip(")") or 1)
    return counts[min(int(env.get("SLURM_NODEID", "0")), len(counts) - 1)]


def _refuse_other_world(env: Mapping[str, str], launch: Launch, name: str) -> None:
    """Torch's variables and MPI's must tell of the same world, where both are there."""
    mpi_size = env.get("OMPI_COMM_WORLD_SIZE")
    if mpi_size is not None and int(mpi_size) not in (1, launch.world_size):
        raise InputError(
            f"environment of {name}: WORLD_SIZE={launch.world_size}, but MPI's world has {mpi_size} ranks.\n"
            "  start the ranks with one launcher only, or unset RANK and WORLD_SIZE before mpirun."
        )


def assign(launch: Launch, topology: TopologySpec) -> Role:
    """Deal a rank to its role. Raises InputError if the launch has another number of ranks than the spec."""
    students, teachers = topology.num_students, topology.num_teachers
    if launch.world_size != students + teachers:
        raise InputError(
            f"the launch has {launch.world_size} ranks, but [topology] num_students = {students} and num_teachers = {teachers}"
            f" make {students + teachers}.\n  launch {students + teachers} ranks (deepspeed --num_gpus {students + teachers} ...),"
            " or change [topology]."
        )
    if launch.rank < students:
        return Role("student", launch.rank, students, launch)
    return Role("teacher", launch.rank - students, teachers, launch)


def role_environment(role: Role) -> dict[str, str]:
    """The torch.distributed variables of a role's own world.

    Students keep the launch's port; every teacher is a world of one rank on its own host.
    """
    launch = role.launch
    local_rank = {"LOCAL_RANK": str(launch.local_rank)}
    if (
        role.kind == "student"
    ):  # under torchrun they meet in its agent's store, which listens on this port already
        return local_rank | {
            "RANK": str(role.rank),
            "WORLD_SIZE": str(role.size),
            "LOCAL_WORLD_SIZE": str(min(launch.local_world_size, role.size)),
            "MASTER_ADDR": launch.master_addr,
            "MASTER_PORT": str(launch.master_port),
        }
    return local_rank | {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(launch.master_port + 1 + role.rank),
    }


def leads_node(role: Role) -> bool:
    """Whether this rank starts what the ranks of its role share on a node: it is the role's first there, as long as the launcher gives
    neighbouring ranks to a node (all do, unless told otherwise)."""
    return role.rank == 0 or role.launch.local_rank == 0
