"""The rows of a request: where the text of each one ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dskd_ds.data.batches import PADDING

Integers = NDArray[np.integer]


def unpadded_length(input_ids: Integers, position_ids: Integers) -> int:
    """Return the number of tokens of a row [T] without the padding behind its text.

    Padding is a last document that consists of PADDING tokens only (data/batches.py). A row that is
    nothing else counts as text.
    """
    last_start = int(np.flatnonzero(position_ids == 0)[-1]) if (position_ids == 0).any() else 0
    is_padding = last_start > 0 and bool((input_ids[last_start:] == PADDING).all())
    return last_start if is_padding else len(input_ids)
