"""The report's numbers are the same whether every step was logged or only some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from dskd_ds.commands.report_page import (
    PLOTS,
    health_facts,
    plot,
    plots_of,
    run_facts,
    write_report,
)
from dskd_ds.commands.report_terms import TITLES, term_charts
from dskd_ds.observe.charts import CHARTS, tag_of
from dskd_ds.spec import load_spec

SPEC = load_spec("tests/base_run.toml", [])


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


def test_the_curve_on_held_out_text_is_drawn_if_it_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has a value every third step; its points are joined over the steps between them."""
    drawn: dict[str, list[tuple[float, float]]] = {}

    def keep(axes: Axes, steps: list[float], values: list[float], **options: object) -> None:
        drawn[str(options["label"])] = list(zip(steps, values, strict=True))
        real_plot(axes, steps, values, **options)

    real_plot = Axes.plot
    title = "Cross-entropy on held-out text"
    never = [
        {key: value for key, value in record(step).items() if key != "heldout_loss"}
        for step in range(1, 7)
    ]
    assert title not in dict(plots_of(never))
    monkeypatch.setattr(Axes, "plot", keep)
    measured = [
        of_step | {"heldout_loss": 10.0 - of_step["step"]} if of_step["step"] % 3 == 0 else of_step
        for of_step in never
    ]
    assert dict(plots_of(measured))[title].startswith("data:image")
    assert drawn["held-out text"] == [(3, 7.0), (6, 4.0)]
    assert len(drawn["text of the training step"]) == 6


def test_losses_below_the_head_have_charts_of_their_own() -> None:
    """A cosine may be negative, and the first steps of a run may have no gradient at all."""
    names = ("11_cosine", "18_posterior")
    keys = {f"{beginning}{name}" for beginning in TITLES for name in names}
    records = [record(step) | dict.fromkeys(keys, -0.5) for step in (1, 2)]
    records[0] |= {"grad_cosine_layer_11_cosine": float("nan")}
    charts = term_charts(keys)
    assert [title for title, _, _ in charts] == [title for title, _ in TITLES.values()]
    assert charts[0][2] == (
        ("loss_layer_11_cosine", "cosine, layer 11"),
        ("loss_layer_18_posterior", "posterior, layer 18"),
    )
    drawn = dict(plots_of(records))
    assert all(drawn[title].startswith("data:image") for title, _, _ in charts)
    without_terms = dict(plots_of([record(1)]))
    assert not any(title in without_terms for title, _, _ in charts)
    assert all(tag_of(key) for key in keys)


def test_the_page_shows_the_kl_by_quarter_where_it_was_measured(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record(1)) + "\n")
    spec = load_spec("tests/base_run.toml", [f"run_dir={tmp_path}"])
    score = {"perplexity": 9.0, "perplexity_error": None, "kl": 0.5, "kl_error": None, "tokens": 8}
    for quarters in ([0.1, 0.2, 0.3, 1.4], None):
        found = score if quarters is None else score | {"kl_by_entropy": quarters}
        evaluation = {"scores": {"teacher": score, "after": found}, "samples": []}
        (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
        page = write_report(spec).read_text()
        assert ("least sure" in page) == ("1.400" in page) == (quarters is not None)
