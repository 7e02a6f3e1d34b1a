"""Compares what the plan predicts with what was measured: tools/studies/plan_validation.md.

    python -m tools.validate_plan              # the parts that need no training runs
    python -m tools.validate_plan --parts c d

Each part is a module of tools/plan_validation. Its numbers are kept in plan_validation.json, so a
part can be repeated alone; the page is written anew from all of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl

from tools.plan_validation.finding import Finding

STUDIES = Path(__file__).resolve().parent / "studies"
RESULTS = STUDIES / "plan_validation.json"
PAGE = STUDIES / "plan_validation.md"
PARTS = {"a": "memory", "b": "step_times", "c": "public_figures", "d": "simulator"}
"""Part -> its module in tools/plan_validation, whose `validate` returns a Finding."""
DEFAULT_PARTS = ["b", "c", "d"]
"""Parts that start no training runs."""
TITLE = """# How far the plan can be trusted

Written by `python -m tools.validate_plan`. A missed target is reported with its reason.
"""


def main() -> None:
    """Run the parts that are asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=DEFAULT_PARTS)
    arguments = parser.parse_args()
    mpl.use("Agg")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for part in arguments.parts:
        started = time.monotonic()
        finding: Finding = importlib.import_module(
            f"tools.plan_validation.{PARTS[part]}"
        ).validate()
        figure = f"plan_validation_{part}.png"
        if finding.draw:
            finding.draw(STUDIES / figure)
        results[part] = finding.as_json() | {"markdown": finding.markdown(figure)}
        report(finding, time.monotonic() - started)
    write(results)


def report(finding: Finding, seconds: float) -> None:
    """Print a part's targets."""
    print(f"part {finding.part}: {finding.title} ({seconds:.0f} s)")
    for target in finding.targets:
        verdict = target.verdict.strip("*")
        print(f"  {target.what}: {target.shown} (at most {target.limit:.0%}): {verdict}")


def write(results: dict[str, Any]) -> None:
    """Write the numbers, and the page of all parts."""
    results = dict(sorted(results.items()))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sections = [results[part]["markdown"] for part in results]
    PAGE.write_text("\n".join([TITLE, *sections]), encoding="utf-8")


if __name__ == "__main__":
    main()
