"""The report's numbers are the same whether every step was logged or only some."""

from __future__ import annotations

import pytest

from dskd_ds.commands.report_page import PLOTS, health_facts, plot, run_facts
from dskd_ds.observe.charts import CHARTS
from dskd_ds.spec import load_spec

SPEC = load_spec("ds_configs/runs/quickstart.toml", [])


def record(step: int) -> dict[str, float]:
    """Return a step's record. All steps are alike, but the first waits for the teacher."""
    seconds = 7.0 if step == 1 else 2.0
    return dict.fromkeys(CHARTS, 0.0) | {
        "step": step,
        "tokens": step * 100,
        "step_seconds": seconds,
        "tokens_per_second": 100 / seconds,
        "teacher_wait_seconds": seconds - 1.5,
        "link_bytes": 4000.0,
        "skipped": 0.0,
    }


def test_every_step() -> None:
    facts = run_facts(SPEC, [record(step) for step in range(1, 8)])
    assert facts["time in steps"] == "19 s"
    assert facts["speed"] == "50 tokens/s"
    assert facts["waiting for the teacher"].startswith("25.0%")
    assert facts["teacher signal"] == "40 bytes per token"


@pytest.mark.parametrize("logged", [[3, 6, 7], [1, 2, 7], [7]])
def test_some_steps_stand_for_the_others(logged: list[int]) -> None:
    facts = run_facts(SPEC, [record(step) for step in logged])
    assert (facts["steps"], facts["tokens"]) == ("7", "700")
    # Without a record of the first step, its longer wait is unknown.
    seconds = 19 if 1 in logged else 14
    assert facts["time in steps"] == f"about {seconds} s"
    assert facts["speed"] == "50 tokens/s"
    assert facts["waiting for the teacher"].startswith("25.0%")
    assert facts["teacher signal"] == "about 40 bytes per token"


def test_health_is_in_the_report() -> None:
    last = record(3) | {"attempt": 2.0, "rss_bytes": 3 << 30, "slowest_factor": 1.25}
    assert health_facts([record(2), last]) == {
        "launches": "2",
        "largest memory of a student": "3.00 GiB",
        "slowest student": "0: 1.25 times the others' computation time",
    }


def test_records_of_an_older_version_are_reported_without_health() -> None:
    old = {key: value for key, value in record(1).items() if key not in ("attempt", "skipped")}
    assert health_facts([old]) == {}
    for title, axis, curves in PLOTS:
        without = {key: value for key, value in old.items() if key != curves[-1][0]}
        assert plot([without, without | {"step": 2}], title, axis, curves).startswith("data:image")
