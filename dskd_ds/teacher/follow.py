"""What the other ranks of a teacher do: compute each request of the first rank together with it."""

from __future__ import annotations

from dskd_ds.models.frozen import FrozenModel
from dskd_ds.teacher.answer import compute
from dskd_ds.teacher.group import TeacherGroup
from dskd_ds.teacher.lost_device import is_request_to_blame
from dskd_ds.teacher.out_of_memory import TeacherMemoryError


def follow(teacher: FrozenModel, group: TeacherGroup) -> None:
    """Compute requests until the first rank has no more. Collective.

    teacher: this rank's share of it.

    If a request cannot be computed here, this teacher ends, because the first rank waits in a
    collective call.
    """
    group.start_watch()
    while (request := group.receive()) is not None:
        try:
            # The first rank has checked the request. What it gives here belongs to nobody.
            compute(teacher, request.arrays, request.wanted)
        except TeacherMemoryError as error:
            group.fail(str(error), is_refusal=True)
        except Exception as error:
            group.fail(f"{type(error).__name__}: {error}", is_request_to_blame(error))
        group.end_work()
