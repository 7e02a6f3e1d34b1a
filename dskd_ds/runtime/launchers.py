"""Reads a rank's place in its launch from the variables that launchers set.

`deepspeed`, `torchrun`, `mpirun` and `srun` say it in different ways. What a rank does in the
launch is decided in topology.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dskd_ds.errors import InputError

DEFAULT_PORT = 29500


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


def read_launch_of_teachers(env: Mapping[str, str]) -> Launch:
    """Return the launch of a process that may be one of several teachers, without students.

    Its ranks need no address: no teacher is on two nodes. A batch script of SLURM may start a
    teacher without srun, alone; the script's variables are then those of its whole job.
    Raises InputError as `read_launch` does.
    """
    known = {"MASTER_ADDR": "127.0.0.1", **env}
    if "SLURM_STEP_TASKS_PER_NODE" not in known:
        known.pop("SLURM_PROCID", None)
    return read_launch(known)


def local_rank(env: Mapping[str, str]) -> str:
    """Return this process's number on its node, which names its device; "0" without a launcher.

    Unlike `read_launch` it needs no complete launch, and raises nothing.
    """
    values = (env.get(names.local_rank) for names in LAUNCHERS.values())
    return next(filter(None, values), "0")


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
