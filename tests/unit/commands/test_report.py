"""The report's numbers are the same whether every step was logged or only some."""

from __future__ import annotations

import pytest

from dskd_ds.commands.report_page import run_facts
from dskd_ds.observe.metrics import CHARTS
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
