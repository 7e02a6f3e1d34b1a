"""The folder for data that runs share."""

from __future__ import annotations

import os
from pathlib import Path


def dskd_home() -> Path:
    """Return the folder for data that runs share: `$DSKD_HOME`, or `~/.cache/dskd`."""
    return Path(os.environ.get("DSKD_HOME", "~/.cache/dskd")).expanduser()
