"""`report.html`: what was run, how it went, and what came out, in one file that opens anywhere."""

from __future__ import annotations

import base64
import io
import itertools
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from dskd_ds.errors import InputError
from dskd_ds.observe.metrics import TENSORBOARD_FOLDER, read_metrics
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.index.graph import INDEX_FOLDER
from dskd_ds.spec import RunSpec, spec_toml
from dskd_ds.student.evaluation import EVALUATION_FILE

REPORT_FILE = "report.html"

PLOTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Terms of the loss",
        "nats (sense term: squared distance)",
        (
            ("loss", "total"),
            ("loss_ce", "cross-entropy"),
            ("loss_kd", "KL to the teacher"),
            ("loss_sense", "sense term"),
        ),
    ),
    (
        "Teacher signal",
        "share",
        (
            ("teacher_mass", "teacher's probability on its top k"),
            ("student_mass", "student's probability on the same tokens"),
            ("topk_overlap", "overlap of the two top-k sets"),
        ),
    ),
    (
        "Senses",
        "distance / share",
        (
            ("sense_pull_distance", "squared distance to S+ per dimension"),
            ("sense_push_active", "share of S- within the margin"),
        ),
    ),
    (
        "What sense positions had",
        "share of positions",
        (
            ("sense_with_synonyms", "synonyms"),
            ("sense_with_antonyms", "antonyms"),
            ("sense_with_neighbours", "neighbours from the index"),
            ("sense_with_nothing", "nothing"),
        ),
    ),
    (
        "Where a step's time goes",
        "seconds",
        (
            ("step_seconds", "whole step"),
            ("teacher_wait_seconds", "waiting for the teacher"),
            ("sense_wait_seconds", "waiting for senses"),
        ),
    ),
)
"""(title, axis label, ((key of metrics.jsonl, legend), ...))"""


def write_report(spec: RunSpec) -> Path:
    """Write the report of a run directory. Raises InputError if nothing was trained there yet."""
    records = read_metrics(spec.run_dir)
    if not records:
        raise InputError(
            f"{spec.run_dir}: there is no metrics.jsonl with any step.\n  train first: dskd train SPEC.toml"
        )
    evaluation = _read_json(Path(spec.run_dir) / EVALUATION_FILE) or {"scores": {}, "samples": []}
    template = resources.files("dskd_ds.commands").joinpath("report_template.html").read_text()
    page = (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(template)
        .render(
            spec=spec,
            spec_text=spec_toml(spec),
            facts=run_facts(spec, records),
            plots=[(p[0], plot(records, *p)) for p in PLOTS],
            scores=evaluation["scores"],
            samples=evaluation["samples"],
            senses=_sense_facts(spec),
            tensorboard=Path(spec.run_dir) / TENSORBOARD_FOLDER,
        )
    )
    path = Path(spec.run_dir) / REPORT_FILE
    path.write_text(page, encoding="utf-8")
    return path


def run_facts(spec: RunSpec, records: list[dict[str, float]]) -> dict[str, str]:
    """The numbers a reader asks for first. A record speaks also for the steps before it that have none ([monitor] log_every_steps)."""
    last = records[-1]
    spans = [
        step - before
        for before, step in itertools.pairwise([0, *(record["step"] for record in records)])
    ]
    later = (
        1 if len(records) > 1 and records[0]["step"] == 1 else 0
    )  # the first step waits for the teacher to start
    about = "" if len(records) == last["step"] else "about "

    def total(key: str, first: int = 0) -> float:
        return sum(
            record[key] * span for record, span in zip(records[first:], spans[first:], strict=True)
        )

    waited = total("teacher_wait_seconds", later) / max(total("step_seconds", later), 1e-9)
    return {
        "steps": f"{int(last['step'])}",
        "tokens": f"{int(last['tokens']):,}",
        "time in steps": f"{about}{total('step_seconds'):.0f} s",
        "speed": f"{total('tokens_per_second', later) / sum(spans[later:]):.0f} tokens/s",
        "waiting for the teacher": f"{waited:.1%} of the time after the first step",
        "teacher signal": f"{about}{total('link_bytes') / max(last['tokens'], 1):.0f} bytes a token",
        "ranks": f"{_count(spec.topology.num_students, 'student')}, {_count(spec.topology.num_teachers, 'teacher')}",
        "skipped steps": f"{int(last['skipped'])}",
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def plot(
    records: list[dict[str, float]], title: str, axis: str, curves: tuple[tuple[str, str], ...]
) -> str:
    """A chart of some metrics over steps, as a PNG data URI."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), dpi=110)
    steps = [record["step"] for record in records]
    for key, label in curves:
        axes.plot(
            steps,
            [record[key] for record in records],
            label=label,
            linewidth=1.6,
            marker="." if len(steps) < 20 else None,
        )
    axes.set(title=title, xlabel="step", ylabel=axis)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _sense_facts(spec: RunSpec) -> dict[str, str]:
    if not spec.uses_senses:
        return {}
    try:
        facts = open_dictionary(spec.senses.dictionary, verify=False).facts
    except InputError:
        return {}
    index = (
        _read_json(Path(spec.senses.dictionary) / INDEX_FOLDER / "manifest.json") or {"facts": {}}
    )["facts"]
    recall = index.get("recall_at_10")
    distance = facts["median_antonym_distance"]
    return {
        "senses": f"{facts['num_rows']:,} of {facts['num_tokens']:,} tokens and {facts['num_spans']:,} spans",
        "vectors they were made from": f"{facts['num_vectors']:,}",
        "tokens with synonyms or antonyms": f"{facts['num_related_tokens']:,}",
        "median squared distance between antonyms, per dimension": "none"
        if distance is None
        else f"{distance:.2f}",
        "index": "none"
        if recall is None
        else f"recall of the 10 nearest {recall:.3f} ({index['num_queries']} unseen states)",
    }


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
