"""Roles of the ranks of a launch, and the torch.distributed environment of each role.

A launch of W ranks is divided into  [ student 0 .. S-1 | teacher 0 .. T-1 ],  where a teacher may
have several ranks. The students form one torch.distributed world. Each teacher is a world of its
own, because DeepSpeed puts barriers on the global world (docs/deepspeed.md, "Roles and worlds"). So
`RANK`, `WORLD_SIZE` and `MASTER_PORT` are rewritten for the role before anything initialises
torch.distributed. `LOCAL_RANK` stays: it names the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dskd_ds.errors import InputError
from dskd_ds.runtime.launchers import DEFAULT_PORT, Launch
from dskd_ds.spec.processes import TopologySpec

NUM_TEACHER_PORTS = 63
"""Ports above MASTER_PORT for teachers of several ranks. The job scripts give each job 64 ports."""

RoleKind = Literal["student", "teacher"]


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
    first_number: int | None = None
    """Number of the first teacher of a launch without students; None in a launch with students."""


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
    launch: Launch,
    ranks_per_teacher: int,
    *,
    first_rank: int,
    size: int,
    first_number: int | None = None,
) -> Role:
    """Return the role of a teacher's rank.

    first_rank: of the launch's first teacher. size: number of teachers. first_number: as in Role.
    Raises InputError if the ranks of this teacher are not all on this node.
    """
    index, rank = divmod(launch.rank - first_rank, ranks_per_teacher)
    number = (first_number or 0) + index
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
    port = launch.master_port + 1 + number % NUM_TEACHER_PORTS
    place = TeacherRank(rank=rank, size=ranks_per_teacher, port=port)
    return Role(
        kind="teacher",
        rank=number,
        size=size,
        launch=launch,
        teacher_rank=place,
        first_number=first_number,
    )


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
