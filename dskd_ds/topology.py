"""Launchers, roles and the environment of each role: the whole rank grid on one screen.

A launch of W ranks is dealt as  [ student 0 .. S-1 | teacher 0 .. T-1 ].  Students form one torch.distributed world; each
teacher is a world of its own, because DeepSpeed puts barriers on the global world (DEEPSPEED.md). So before anything
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
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
}


def read_launch(env: Mapping[str, str]) -> Launch:
    """Read the launch from the environment that `deepspeed`, `torchrun`, `mpirun` or `srun` made.

    Raises InputError if the variables contradict each other or no address is known for a world of several nodes.
    """
    for launcher, (rank, size, local_rank, local_size) in LAUNCHERS.items():
        if rank in env and size in env:
            return _launch(env, launcher, rank, size, local_rank, local_size)
    return Launch("none", 0, 1, 0, 1, "127.0.0.1", DEFAULT_PORT)


def _launch(env: Mapping[str, str], launcher: str, rank: str, size: str, local_rank: str, local_size: str) -> Launch:
    name = "deepspeed" if launcher == "torch" and "CROSS_RANK" in env else launcher
    try:
        world_size = int(env[size])
        # SLURM writes "4(x2)" or nothing; LOCAL_SIZE is what the deepspeed launcher calls it.
        local_text = env.get(local_size) or env.get("LOCAL_SIZE") or str(world_size)
        launch = Launch(name, int(env[rank]), world_size, int(env.get(local_rank, "0")), int(local_text.split("(")[0]),
                        master_addr=env.get("MASTER_ADDR", ""), master_port=int(env.get("MASTER_PORT", DEFAULT_PORT)))
    except ValueError as error:
        raise InputError(f"environment of {name}: {error}.\n  start ranks with deepspeed, torchrun, mpirun or srun.") from None
    if not 0 <= launch.rank < launch.world_size:
        raise InputError(f"environment of {name}: {rank}={launch.rank} is not below {size}={launch.world_size}.\n"
                         "  two launchers' variables are mixed: start from a clean shell.")
    _refuse_other_world(env, launch, name)
    if launch.master_addr:
        return launch
    if launch.local_world_size < launch.world_size:
        raise InputError(f"environment of {name}: {world_size} ranks on several nodes, but MASTER_ADDR is not set.\n"
                         "  export MASTER_ADDR=<host of rank 0> before the launch.")
    return Launch(**{**launch.__dict__, "master_addr": "127.0.0.1"})


def _refuse_other_world(env: Mapping[str, str], launch: Launch, name: str) -> None:
    """Torch's variables and MPI's must tell of the same world, where both are there."""
    mpi_size = env.get("OMPI_COMM_WORLD_SIZE")
    if mpi_size is not None and int(mpi_size) not in (1, launch.world_size):
        raise InputError(f"environment of {name}: WORLD_SIZE={launch.world_size}, but MPI's world has {mpi_size} ranks.\n"
                         "  start the ranks with one launcher only, or unset RANK and WORLD_SIZE before mpirun.")


def assign(launch: Launch, topology: TopologySpec) -> Role:
    """Deal a rank to its role. Raises InputError if the launch has another number of ranks than the spec."""
    students, teachers = topology.num_students, topology.num_teachers
    if launch.world_size != students + teachers:
        raise InputError(
            f"the launch has {launch.world_size} ranks, but [topology] num_students = {students} and num_teachers = {teachers}"
            f" make {students + teachers}.\n  launch {students + teachers} ranks (deepspeed --num_gpus {students + teachers} ...),"
            " or change [topology].")
    if launch.rank < students:
        return Role("student", launch.rank, students, launch)
    return Role("teacher", launch.rank - students, teachers, launch)


def role_environment(role: Role) -> dict[str, str]:
    """The torch.distributed variables of a role's own world.

    Students keep the launch's port; every teacher is a world of one rank on its own host.
    """
    launch = role.launch
    common = {"LOCAL_RANK": str(launch.local_rank),
              # torchrun's agent holds a store that knows only the whole launch.
              "TORCHELASTIC_USE_AGENT_STORE": "False"}
    if role.kind == "student":
        return common | {"RANK": str(role.rank), "WORLD_SIZE": str(role.size),
                         "LOCAL_WORLD_SIZE": str(min(launch.local_world_size, role.size)),
                         "MASTER_ADDR": launch.master_addr, "MASTER_PORT": str(launch.master_port)}
    return common | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(launch.master_port + 1 + role.rank)}


def leads_node(role: Role) -> bool:
    """Whether this rank starts what the ranks of its role share on a node: it is the role's first there, as long as the launcher gives
    neighbouring ranks to a node (all do, unless told otherwise)."""
    return role.rank == 0 or role.launch.local_rank == 0
