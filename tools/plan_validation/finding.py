"""What a part of the validation found: targets, tables and a figure, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Cell = str | float | int


@dataclass(frozen=True)
class Target:
    """A number that must not exceed its limit."""

    what: str
    limit: float
    reached: float | None
    """None if it was not measured."""

    @property
    def verdict(self) -> str:
        """Whether the number is within the limit."""
        if self.reached is None:
            return "not measured"
        return "met" if self.reached <= self.limit else "**missed**"

    @property
    def shown(self) -> str:
        """The number as a percentage."""
        return "-" if self.reached is None else f"{self.reached:.1%}"

    def line(self) -> str:
        """Return a row of a Markdown table; both numbers are shares."""
        return f"| {self.what} | {self.limit:.0%} | {self.shown} | {self.verdict} |"


@dataclass(frozen=True)
class Table:
    """A table with a title and a sentence that explains it."""

    title: str
    explanation: str
    columns: list[str]
    rows: list[list[Cell]]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"### {self.title}", "", self.explanation, ""]
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("|" + "---|" * len(self.columns))
        lines += ["| " + " | ".join(shown(cell) for cell in row) + " |" for row in self.rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class Finding:
    """The result of one part."""

    part: str
    title: str
    targets: list[Target]
    tables: list[Table]
    remarks: list[str] = field(default_factory=list)
    draw: Callable[[Path], None] | None = None
    """Writes the part's figure to a PNG file."""

    def markdown(self, figure: str) -> str:
        """Return the part's section. figure: the name of its PNG file."""
        lines = [f"## Part {self.part}: {self.title}", ""]
        lines += ["| what | target | reached | |", "|---|---|---|---|"]
        lines += [target.line() for target in self.targets]
        lines += ["", *[f"- {remark}" for remark in self.remarks]]
        if self.draw:
            lines += ["", f"![{self.title}]({figure})"]
        for table in self.tables:
            lines += ["", table.markdown()]
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return targets and tables for a JSON file."""
        targets = [
            {
                "what": t.what,
                "limit": t.limit,
                "reached": None if t.reached is None else round(t.reached, 4),
                "verdict": t.verdict.strip("*"),
            }
            for t in self.targets
        ]
        tables = {t.title: {"columns": t.columns, "rows": t.rows} for t in self.tables}
        return {"title": self.title, "targets": targets, "tables": tables, "remarks": self.remarks}


def shown(cell: Cell) -> str:
    """Return a cell's text: whole numbers with thousands separators, others with 3 digits."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{round(cell):,}"
    return f"{cell:.3g}"


def percent(share: float) -> str:
    """Return a signed percentage."""
    return f"{share:+.1%}"
