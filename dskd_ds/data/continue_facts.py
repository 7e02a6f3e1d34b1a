"""What is known of a file of continuations: how it was made, and counts per question set.

The facts are in a JSON file beside the continuations.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dskd_ds.data.continue_prompts import Prompts


@dataclass(frozen=True)
class SetFacts:
    """Counts of one question set in a file of continuations."""

    num_written: int
    num_lost: int
    """Conversations that were left out."""
    num_tokens: int
    """Tokens of all continuations, after the cut."""
    num_with_answer: int
    """Conversations whose row gave an answer."""
    num_equal: int
    """Those of them whose whole continuation is that answer."""


@dataclass(frozen=True)
class Facts:
    """How a file was made, and what it holds."""

    made_of: str
    """Digest of everything that the file depends on."""
    epoch: int
    seed: int
    sets: Mapping[str, SetFacts]
    """Question set, or an empty name, -> its counts."""

    def as_json(self) -> dict[str, Any]:
        """Return the facts for a JSON file."""
        return asdict(self)


def facts_file(output: Path) -> Path:
    """Return where the facts of a file of continuations are."""
    return output.with_name(f"{output.name}.facts.json")


def read_facts(output: Path) -> dict[str, Any]:
    """Return the facts of a file of continuations; empty if they are missing or damaged."""
    try:
        facts: dict[str, Any] = json.loads(facts_file(output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts


def count_rows(output: Path, prompts: Prompts) -> dict[str, SetFacts]:
    """Count the rows of a file of continuations per question set."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in prompts.num_rows}
    with output.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            counts[row["set"]].update(
                written=1,
                tokens=len(row["completion_ids"]),
                answers=row["equals_answer"] is not None,
                equal=bool(row["equals_answer"]),
            )
    return {
        name: SetFacts(
            num_written=count["written"],
            num_lost=prompts.num_rows[name] - count["written"],
            num_tokens=count["tokens"],
            num_with_answer=count["answers"],
            num_equal=count["equal"],
        )
        for name, count in counts.items()
    }


def print_table(facts: Facts) -> None:
    """Print the counts. The last column tells how often the teacher gives the row's answer."""
    print(f"{'set':<10}{'written':>9}{'left out':>10}{'tokens each':>13}{'= answer':>10}")
    for name, counts in facts.sets.items():
        tokens = counts.num_tokens / max(1, counts.num_written)
        share = counts.num_equal / counts.num_with_answer if counts.num_with_answer else None
        equal = "-" if share is None else f"{share:.3f}"
        print(
            f"{name or '-':<10}{counts.num_written:>9}{counts.num_lost:>10}"
            f"{tokens:>13.2f}{equal:>10}"
        )
