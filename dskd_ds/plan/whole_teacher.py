"""Refuses commands that load the whole teacher on each rank, if its spec divides it."""

from __future__ import annotations

from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec


def check_whole_teacher(spec: RunSpec, command: str) -> None:
    """Raise InputError if the spec's teacher is divided, which `command` cannot do."""
    ranks = spec.topology.ranks_per_teacher
    if ranks > 1:
        raise InputError(
            f"[topology] ranks_per_teacher = {ranks}, but {command} loads the whole teacher on each"
            " of its ranks: it cannot divide it.\n"
            "  add --set topology.ranks_per_teacher=1 to this command, if one device holds the"
            " whole teacher."
        )
