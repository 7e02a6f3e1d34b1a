"""A section of the scaling study: what it shows, a table, and a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.plan_validation.finding import Table


@dataclass(frozen=True)
class Section:
    """One question and its answer."""

    name: str
    """Of the figure's file: scaling_NAME.png."""
    title: str
    setting: str
    """What was computed, and with which settings."""
    findings: list[str]
    tables: list[Table]
    draw: Callable[[Path], None] | None = None
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the section."""
        lines = [f"## {self.title}", "", self.setting, ""]
        lines += [f"- {finding}" for finding in self.findings]
        if self.draw:
            lines += ["", f"![{self.title}](scaling_{self.name}.png)"]
        for table in self.tables:
            lines += ["", table.markdown()]
        if self.notes:
            lines += ["", *self.notes]
        return "\n".join(lines) + "\n"
