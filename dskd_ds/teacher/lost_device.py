"""Tells an error after which a GPU does nothing more for this process from one of a request."""

from __future__ import annotations

from dskd_ds.errors import DskdError

DEVICE_TEXTS = ("CUDA error", "HIP error")
"""In the text of what torch raises: an AcceleratorError, in older versions a RuntimeError."""
MEMORY_TEXTS = ("out of memory", "ALLOC_FAILED")
"""What such an error says if only memory is missing; a smaller request may then be answered."""


class LostDeviceError(DskdError):
    """This process cannot use its GPU any more; another process can."""

    def __init__(self, cause: BaseException) -> None:
        first_line = str(cause).strip().splitlines()[0]
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
