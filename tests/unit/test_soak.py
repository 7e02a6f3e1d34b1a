"""The soak's file says briefly what has passed, and a second call reads all of it back."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tools.soak import Scenario, split

PARAMETERS = st.one_of(st.integers(0, 30).map(str), st.sampled_from(["", "SIGTERM", "1-3", "-1"]))


@given(st.sets(PARAMETERS))
def test_what_has_passed_is_read_back(passed: set[str]) -> None:
    scenario = Scenario(num_asked=40, passed=passed, seconds=2.5, commits=["abc1234"])
    stored = json.loads(json.dumps(scenario.summary()))
    assert stored["num_passed"] == len(passed)
    assert Scenario.of_summary(stored) == scenario


def test_seeds_are_written_as_first_and_last() -> None:
    passed = {*map(str, range(200)), "205", "SIGKILL"}
    assert Scenario(passed=passed).summary()["passed"] == [[0, 199], [205, 205], "SIGKILL"]
    assert "failed" not in Scenario().summary()


def test_a_tests_parameters_are_found() -> None:
    assert split("tests/a.py::test_b[x-[1]]") == ("tests/a.py::test_b", "x-[1]")
    assert split("tests/a.py::test_b") == ("tests/a.py::test_b", "")
