"""Tells an error after which a GPU does nothing more for this process from one of a request."""

from __future__ import annotations

from dskd_ds.errors import DskdError
from dskd_ds.teacher.group_channel import LostRankError
from dskd_ds.teacher.out_of_memory import is_out_of_memory

DEVICE_TEXTS = ("CUDA error", "HIP error")
"""In the text of what torch raises: an AcceleratorError, in older versions a RuntimeError."""
MEMORY_TEXTS = ("out of memory", "ALLOC_FAILED")
"""What such an error says if only memory is missing; a smaller request may then be answered."""


class LostDeviceError(DskdError):
    """This process cannot use its GPU any more; another process can."""

    def __init__(self, cause: BaseException) -> None:
        first_line = str(cause).strip().splitlines()[0]
        self.summary = f"it cannot use its GPU any more ({type(cause).__name__}: {first_line})"
        """The reason alone, for the students."""
        super().__init__(
            "this teacher cannot use its GPU any more"
            f" ({type(cause).__name__}: {first_line}).\n"
            "  start it again. If that happens often, have the GPU checked, or set"
            " CUDA_LAUNCH_BLOCKING=1 to see what fails."
        )


def is_device_lost(error: BaseException) -> bool:
    """Return whether an error has ended this process's use of its GPU.

    After an illegal access or a failed assertion on the GPU every later call fails too.
    """
    text = str(error)
    return (
        isinstance(error, RuntimeError)
        and any(part in text for part in DEVICE_TEXTS)
        and not any(part in text for part in MEMORY_TEXTS)
    )


def is_request_to_blame(error: BaseException) -> bool:
    """Return whether an error amid a computation of several ranks comes from the request.

    A collective call that fails, and a GPU that is lost, raise a RuntimeError. So do some errors of
    a request, but a teacher that is started again may be asked for it again.
    """
    if is_out_of_memory(error):
        return True
    return not isinstance(error, RuntimeError | LostRankError)
