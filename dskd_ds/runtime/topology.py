"""Launchers, roles, and the torch.distributed environment of each role.

A launch of W ranks is divided into  [ student 0 .. S-1 | teacher 0 .. T-1 ],  where a teacher may
have several ranks. The students form one torch.distributed world. Each teacher is a world of its
own, because DeepSpeed puts barriers on the global world (docs/deepspeed.md, "Roles and worlds"). So
`RANK`, `WORLD_SIZE` and `MASTER_PORT` are rewritten for the role before anything initialises
torch.distributed. `LOCAL_RANK` stays: it names the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from dskd_ds.errors import InputError
from dskd_ds.spec.processes import TopologySpec

DEFAULT_PORT = 29500
RoleKind = Literal["student", "teacher"]


@dataclass(frozen=True)
class Launch:
    """This process's rank in its launch, and the launch's size and address."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_addr: str
    master_port: int

    @property
    def spans_nodes(self) -> bool:
        """Whether some ranks of the launch run on another machine."""
        return self.local_world_size < self.world_size


@dataclass(frozen=True)
class TeacherRank:
    """This process's place among the ranks that hold one teacher together."""

    rank: int = 0
    size: int = 1
    port: int = DEFAULT_PORT + 1
    """TCP port of this node at which the ranks meet."""


ALONE = TeacherRank()
"""The place of the only rank of a teacher."""


@dataclass(frozen=True)
class Role:
    """What this process does in the launch."""

    kind: RoleKind
    rank: int
    """Rank of a student within the students; number of a teacher."""
    size: int
    """Number of students or of teachers."""
    launch: Launch
    teacher_rank: TeacherRank = ALONE
    """Place within the teacher, for ranks of a teacher."""


@dataclass(frozen=True)
class LauncherVariables:
    """Names of the environment variables in which a launcher describes its ranks."""

    rank: str
    world_size: str
    local_rank: str
    local_world_size: str


# Tried in this order: a launcher that sets torch's own variables wins over the MPI or SLURM step
# around it.
LAUNCHERS = {
    "torch": LauncherVariables(
        rank="RANK",
        world_size="WORLD_SIZE",
        local_rank="LOCAL_RANK",
        local_world_size="LOCAL_WORLD_SIZE",
    ),
    "mpirun": LauncherVariables(
        rank="OMPI_COMM_WORLD_RANK",
        world_size="OMPI_COMM_WORLD_SIZE",
        local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
        local_world_size="OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "srun": LauncherVariables(
        rank="SLURM_PROCID",
        world_size="SLURM_NTASKS",
        local_rank="SLURM_LOCALID",
        local_world_size="SLURM_STEP_TASKS_PER_NODE",
    ),
}


def read_launch(env: Mapping[str, str]) -> Launch:
    """Return the launch that `deepspeed`, `torchrun`, `mpirun` or `srun` describes in `env`.

    Without a launcher it is a launch of one rank.
    Raises InputError if the variables are invalid or contradict each other, or if the launch has
    several nodes and no MASTER_ADDR.
    """
    for launcher, names in LAUNCHERS.items():
        if names.rank in env and names.world_size in env:
            return _checked_launch(env, launcher, names)
    return Launch(
        launcher="none",
        rank=0,
        world_size=1,
        local_rank=0,
        local_world_size=1,
        master_addr="127.0.0.1",
        master_port=DEFAULT_PORT,
    )


def _checked_launch(env: Mapping[str, str], launcher: str, names: LauncherVariables) -> Launch:
    """Return the launch that one launcher's variables describe. Raises InputError."""
    # The deepspeed launcher sets torch's variables, and CROSS_RANK besides.
    name = "deepspeed" if launcher == "torch" and "CROSS_RANK" in env else launcher
    try:
        launch = _parse_launch(env, name, names)
    except ValueError as error:
        raise InputError(
            f"environment of {name}: {error}.\n"
            "  start ranks with deepspeed, torchrun, mpirun or srun."
        ) from None
    if not 0 <= launch.rank < launch.world_size:
        raise InputError(
            f"environment of {name}: {names.rank}={launch.rank} is not below"
            f" {names.world_size}={launch.world_size}.\n"
            "  the variables of two launchers are mixed: start from a clean shell."
        )
    _check_mpi_world(env, launch)
    if launch.master_addr:
        return launch
    if launch.spans_nodes:
        raise InputError(
            f"environment of {name}: {launch.world_size} ranks on several nodes, but MASTER_ADDR"
            " is not set.\n"
            "  export MASTER_ADDR=<host of rank 0> before the launch"
            " (mpirun: pass it on with -x MASTER_ADDR)."
        )
    return replace(launch, master_addr="127.0.0.1")


def _parse_launch(env: Mapping[str, str], launcher: str, names: LauncherVariables) -> Launch:
    """Return the launch with an empty master_addr if none is set. Raises ValueError."""
    world_size = int(env[names.world_size])
    if launcher == "srun":
        local_world_size = _slurm_tasks_of_this_node(env, world_size)
    else:
        # The deepspeed launcher sets LOCAL_SIZE instead of LOCAL_WORLD_SIZE.
        local_size = env.get(names.local_world_size) or env.get("LOCAL_SIZE") or str(world_size)
        local_world_size = int(local_size)
    return Launch(
        launcher=launcher,
        rank=int(env[names.rank]),
        world_size=world_size,
        local_rank=int(env.get(names.local_rank, "0")),
        local_world_size=local_world_size,
        master_addr=env.get("MASTER_ADDR", ""),
        master_port=int(env.get("MASTER_PORT", DEFAULT_PORT)),
    )


def _slurm_tasks_of_this_node(env: Mapping[str, str], world_size: int) -> int:
    """Return the number of this job step's tasks on this node.

    It comes from srun's list of tasks by node, such as "8(x2)" or "4,2(x3)". SLURM_NTASKS_PER_NODE
    is unsuitable: it is set only if --ntasks-per-node was given, and may belong to another step.
    Raises ValueError if srun did not start this process, or if the list is malformed.
    """
    tasks_by_node = env.get("SLURM_STEP_TASKS_PER_NODE", "")
    if not tasks_by_node:
        if world_size > 1:
            raise ValueError(
                f"SLURM_NTASKS={world_size}, but srun did not start this process"
                " (no SLURM_STEP_TASKS_PER_NODE)"
            )
        return 1
    counts: list[int] = []
    # "4,2(x3)": four tasks on the first node, two on each of the next three.
    for entry in tasks_by_node.split(","):
        num_tasks, _, repeats = entry.partition("(x")
        counts += [int(num_tasks)] * int(repeats.rstrip(")") or 1)
    node = int(env.get("SLURM_NODEID", "0"))
    return counts[min(node, len(counts) - 1)]


def _check_mpi_world(env: Mapping[str, str], launch: Launch) -> None:
    """Raise InputError if both torch's and MPI's variables are set and their worlds differ."""
    mpi_size = env.get("OMPI_COMM_WORLD_SIZE")
    if mpi_size is not None and int(mpi_size) not in (1, launch.world_size):
        raise InputError(
            f"environment of {launch.launcher}: WORLD_SIZE={launch.world_size}, but MPI's world has"
            f" {mpi_size} ranks.\n"
            "  start the ranks with one launcher only, or unset RANK and WORLD_SIZE before mpirun."
        )


def assign(launch: Launch, topology: TopologySpec) -> Role:
    """Return the role of this rank.

    Raises InputError if the launch and the spec have different numbers of ranks.
    """
    students, teachers = topology.num_students, topology.num_teachers
    num_ranks = topology.num_ranks
    if launch.world_size != num_ranks:
        per_teacher = topology.ranks_per_teacher
        of_ranks = f" of {per_teacher} ranks each" if per_teacher > 1 else ""
        raise InputError(
            f"the launch has {launch.world_size} ranks, but [topology] num_students = {students}"
            f" and num_teachers = {teachers}{of_ranks} make {num_ranks}.\n"
            f"  launch {num_ranks} ranks (deepspeed --num_gpus {num_ranks} ...),"
            " or change [topology]."
        )
    # Students come first: MASTER_ADDR is the host of global rank 0, where rank 0 of their world
    # must be.
    if launch.rank < students:
        return Role(kind="student", rank=launch.rank, size=students, launch=launch)
    return teacher_role(launch, topology.ranks_per_teacher, first_rank=students, size=teachers)


def teacher_role(
    launch: Launch, ranks_per_teacher: int, *, first_rank: int, size: int, first_number: int = 0
) -> Role:
    """Return the role of a teacher's rank.

    first_rank: of the launch's first teacher, whose number is `first_number`. size: number of
    teachers. Raises InputError if the ranks of this teacher are not all on this node.
    """
    index, rank = divmod(launch.rank - first_rank, ranks_per_teacher)
    number = first_number + index
    first_here = launch.local_rank - rank
    is_here = first_here >= 0 and first_here + ranks_per_teacher <= launch.local_world_size
    if ranks_per_teacher > 1 and not is_here:
        raise InputError(
            f"[topology] ranks_per_teacher = {ranks_per_teacher}, but the ranks of teacher {number}"
            f" are on two nodes: its rank {rank} is rank {launch.local_rank} of the"
            f" {launch.local_world_size} of its node.\n"
            "  choose ranks per node and num_students so that no teacher crosses the end of a node,"
            " or give the teachers nodes of their own (dskd submit does)."
        )
    port = launch.master_port + 1 + number
    place = TeacherRank(rank=rank, size=ranks_per_teacher, port=port)
    return Role(kind="teacher", rank=number, size=size, launch=launch, teacher_rank=place)


def teacher_of_step(launch: Launch, topology: TopologySpec, first_number: int) -> Role:
    """Return the role of a rank of a launch that consists of teachers only.

    first_number: number of its first teacher. Raises InputError if the launch has no multiple of
    `ranks_per_teacher` ranks, or if a teacher is on two nodes.
    """
    ranks_per_teacher = topology.ranks_per_teacher
    size, left = divmod(launch.world_size, ranks_per_teacher)
    if left:
        raise InputError(
            f"the launch has {launch.world_size} ranks, which is no multiple of"
            f" [topology] ranks_per_teacher = {ranks_per_teacher}.\n"
            f"  start {ranks_per_teacher} ranks for each teacher:"
            f" torchrun --nproc_per_node {ranks_per_teacher} -m dskd_ds.teacher --spec SPEC.toml"
        )
    return teacher_role(
        launch, ranks_per_teacher, first_rank=0, size=size, first_number=first_number
    )


def role_environment(role: Role) -> dict[str, str]:
    """Return the torch.distributed variables of the role's world.

    Students keep the launch's address and port. Every teacher is a world on its host.
    """
    launch = role.launch
    if role.kind == "student":
        # Under torchrun students meet in its agent's store, which listens on this port already.
        return {
            "RANK": str(role.rank),
            "WORLD_SIZE": str(role.size),
            "LOCAL_RANK": str(launch.local_rank),
            "LOCAL_WORLD_SIZE": str(min(launch.local_world_size, role.size)),
            "MASTER_ADDR": launch.master_addr,
            "MASTER_PORT": str(launch.master_port),
        }
    place = role.teacher_rank
    return {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(launch.local_rank),
        "LOCAL_WORLD_SIZE": str(place.size),
        # torchrun's agent listens on the students' port only.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(place.port),
    }


def leads_node(role: Role) -> bool:
    """Return whether this rank starts what the ranks of its role share on a node.

    It is the first rank of its role on the node, if the launcher gives neighbouring ranks to a
    node. All launchers do, unless told otherwise.
    """
    return role.rank == 0 or role.launch.local_rank == 0
