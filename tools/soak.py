"""Runs the fault tests with their full numbers, and keeps the results in tools/studies/soak.json.

    python tools/soak.py                     # all of them; hours
    python tools/soak.py --minutes 30        # stops after the test that runs then
    python tools/soak.py -k killed_teacher   # what pytest's -k selects

CI runs the same tests with few seeds (tests/seeds.py). Each result is written as soon as it is
there, and a second call runs only what has not passed yet, so a soak can be stopped at any time.
The file also says how many seeds were asked for: a test that has not run yet has passed none. Seeds
that passed are listed as [first, last].
`--again` runs everything anew. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tools" / "studies" / "soak.json"
LIBRARIES = ("torch", "deepspeed", "transformers", "pyzmq", "numpy", "pydantic")
MOST_SECONDS_PER_TEST = 1800
MOST_ERROR_CHARACTERS = 2000


@dataclass
class Scenario:
    """The results of one test function; its parameters are seeds or kinds of faults."""

    num_asked: int = 0
    """With how many parameters the test is to run; 1 for a test without parameters."""
    passed: set[str] = field(default_factory=set)
    """Parameters; "" for a test without parameters."""
    seconds: float = 0.0
    """How long all that passed took together."""
    failed: dict[str, str] = field(default_factory=dict)
    """Parameters -> the end of the error."""
    figures: dict[str, dict[str, object]] = field(default_factory=dict)
    """Parameters -> what the test has measured."""
    commits: list[str] = field(default_factory=list)
    """The commits that results come from."""

    def summary(self) -> dict[str, object]:
        """Return what the file says of this scenario; what is empty is left out."""
        counts = {
            "num_asked": self.num_asked,
            "num_passed": len(self.passed),
            "num_failed": len(self.failed),
        }
        details = {
            "seconds": round(self.seconds, 1),
            "passed": shortened(self.passed),
            "failed": self.failed,
            "figures": self.figures,
            "commits": self.commits,
        }
        return counts | {key: value for key, value in details.items() if value}

    @classmethod
    def of_summary(cls, content: dict[str, Any]) -> Scenario:
        """Return the scenario that `summary` described."""
        known = cls.__dataclass_fields__.keys() & content.keys()
        kept = {key: content[key] for key in known}
        return cls(**kept | {"passed": set(lengthened(content.get("passed", [])))})


class Results:
    """All results, kept in a file."""

    def __init__(self, path: Path, start_anew: bool) -> None:
        self._path = path
        self.scenarios: dict[str, Scenario] = {}
        if path.is_file() and not start_anew:
            for name, content in json.loads(path.read_text(encoding="utf-8"))["scenarios"].items():
                self.scenarios[name] = Scenario.of_summary(content)
        self._commit = git("rev-parse", "--short", "HEAD")
        but_this_file = f":!{RESULTS.relative_to(ROOT)}"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", but_this_file)
        self._is_changed = bool(changed)

    def has_passed(self, node_id: str) -> bool:
        """Return whether a test has passed before."""
        name, parameters = split(node_id)
        return parameters in self.scenarios.get(name, Scenario()).passed

    def note_asked(self, node_ids: Iterable[str]) -> None:
        """Take in all tests that the soak consists of, whether they run now or not.

        Results of a test that is gone, or has another name now, are dropped.
        """
        asked = Counter(split(node_id)[0] for node_id in node_ids)
        self.scenarios = {name: self.scenarios.get(name, Scenario()) for name in asked}
        for name, count in asked.items():
            self.scenarios[name].num_asked = count

    def add(self, report: pytest.TestReport) -> None:
        """Keep the result of a test, and write the file."""
        name, parameters = split(report.nodeid)
        scenario = self.scenarios.setdefault(name, Scenario())
        scenario.passed.discard(parameters)
        scenario.failed.pop(parameters, None)
        if report.passed:
            scenario.passed.add(parameters)
            scenario.seconds += report.duration
        else:
            scenario.failed[parameters] = str(report.longreprtext)[-MOST_ERROR_CHARACTERS:]
        if report.user_properties:
            scenario.figures[parameters] = dict(report.user_properties)
        commit = self._commit + ("+changes" if self._is_changed else "")
        if commit not in scenario.commits:
            scenario.commits.append(commit)
        self.write()

    def write(self) -> None:
        """Replace the file. Each scenario takes one line, so that a change is easy to read."""
        lines = [
            f"    {json.dumps(name)}: {json.dumps(scenario.summary())}"
            for name, scenario in sorted(self.scenarios.items())
        ]
        scenarios = ",\n".join(lines)
        content = (
            f'{{\n  "environment": {json.dumps(environment())},\n'
            f'  "scenarios": {{\n{scenarios}\n  }}\n}}\n'
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(self._path)

    def print_summary(self) -> None:
        """Print one line per scenario."""
        for name, scenario in sorted(self.scenarios.items()):
            counts = f"{len(scenario.passed):5} passed {len(scenario.failed):3} failed"
            print(f"{counts} of {scenario.num_asked:3}  {name}")


def shortened(parameters: Iterable[str]) -> list[str | list[int]]:
    """Return parameters with consecutive seeds as [first, last]; `lengthened` undoes it."""
    seeds = sorted(int(found) for found in parameters if found.isdecimal())
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and spans[-1][1] == seed - 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return [*spans, *sorted(found for found in parameters if not found.isdecimal())]


def lengthened(items: Iterable[str | list[int]]) -> Iterator[str]:
    """Yield the parameters that `shortened` was given."""
    for item in items:
        if isinstance(item, str):
            yield item
        else:
            first, last = item
            yield from (str(seed) for seed in range(first, last + 1))


class Recorder:
    """A pytest plugin: leaves out what has passed before, and keeps each result."""

    def __init__(self, results: Results, end: float) -> None:
        """end: when no further test is started, by time.monotonic()."""
        self._results, self._end = results, end

    @pytest.hookimpl(tryfirst=True)  # before pytest deselects by -k
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Count the tests of the soak, and deselect those that have passed before."""
        self._results.note_asked(item.nodeid for item in items if item.get_closest_marker("fault"))
        done = [item for item in items if self._results.has_passed(item.nodeid)]
        items[:] = [item for item in items if item not in done]
        config.hook.pytest_deselected(items=done)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Stop in front of a test if the time is over."""
        if time.monotonic() > self._end:
            item.session.shouldstop = "the time of this soak is over"
            pytest.skip("the time of this soak is over")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the result of a test's body, or of a fixture that failed."""
        if report.when == "call" or report.failed:
            self._results.add(report)


def split(node_id: str) -> tuple[str, str]:
    """Return a test's file and function, and its parameters."""
    match = re.fullmatch(r"([^\[]+)(?:\[(.*)\])?", node_id, re.DOTALL)
    assert match
    return match[1], match[2] or ""


def git(*argv: str) -> str:
    """Return the output of a git command in this repository."""
    done = subprocess.run(("git", *argv), cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def environment() -> dict[str, Any]:
    """Return what the results depend on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "written": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def main() -> int:
    """Run the tests and return pytest's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("-k", default="", help="as pytest's -k: which tests")
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["DSKD_SOAK"] = "1"  # before the tests are imported (tests/seeds.py)
    results = Results(RESULTS, start_anew=args.again)
    recorder = Recorder(results, time.monotonic() + 60 * args.minutes)
    options = ["-m", "fault", "-v", "-n", "0", "--dist", "no", "-p", "no:cacheprovider"]
    options += [f"--timeout={MOST_SECONDS_PER_TEST}", "-k", args.k, "tests"]
    code = pytest.main(options, plugins=[recorder])
    results.write()
    results.print_summary()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
