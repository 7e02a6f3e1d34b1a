"""A broken rule of a spec as data: key, value, reason and way out; and how a value is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a spec."""

    key: str
    """Dotted key, as in `train.global_batch_blocks`."""
    value: Any
    """The value that the key has now."""
    reason: str
    """Why the value is wrong; continues the sentence "KEY = VALUE, but ..."."""
    way_out: str
    """What to do about it, with every choice."""

    def __str__(self) -> str:
        *section, name = self.key.split(".")
        where = f"[{'.'.join(section)}] " if section else ""
        return f"{where}{name} = {show(self.value)}, but {self.reason}.\n  {self.way_out}."


class ProblemsError(ValueError):
    """A spec breaks rules. `problems` holds all of them, so that they are reported together."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def show(value: Any) -> str:
    """Return a value in TOML's notation; None is shown as "(not given)"."""
    if value is None:
        return "(not given)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return str(list(value))
    return str(value)
