"""Writes `report.html`: spec, curves, tables and samples of a run in one self-contained file."""

from __future__ import annotations

import base64
import io
import itertools
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from dskd_ds.commands.report_plan import plan_facts
from dskd_ds.commands.report_terms import term_charts
from dskd_ds.errors import InputError
from dskd_ds.evaluation.result import EVALUATION_FILE
from dskd_ds.observe.metrics import TENSORBOARD_FOLDER, read_metrics
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.index.graph import INDEX_FOLDER
from dskd_ds.spec import RunSpec, spec_toml

REPORT_FILE = "report.html"
GIB = 1 << 30

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
        "Cross-entropy on held-out text",
        "nats per token",
        (
            ("heldout_loss", "held-out text"),
            ("loss_ce", "text of the training step"),
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
    (
        "Who waits for whom",
        "share of the time / factor",
        (
            ("teacher_wait_share", "students wait for the teacher"),
            ("teacher_idle_share", "teachers wait for requests"),
            ("slowest_factor", "slowest student's computation over the others'"),
        ),
    ),
)
"""The report's charts: (title, axis label, ((key of metrics.jsonl, legend), ...)) each.

The first curve is what a chart is drawn for: without it the report leaves the chart out.
"""


def write_report(spec: RunSpec) -> Path:
    """Write the report of a run and return its path.

    Raises InputError if the run directory has no record of a step.
    """
    records = read_metrics(spec.run_dir)
    if not records:
        raise InputError(
            f"{spec.run_dir}: there is no metrics.jsonl with any step.\n"
            "  train first: dskd train SPEC.toml"
        )
    # A report may be written before `dskd eval`.
    evaluation = _read_json(Path(spec.run_dir) / EVALUATION_FILE) or {"scores": {}, "samples": []}
    template = (
        resources.files("dskd_ds.commands")
        .joinpath("report_template.html")
        .read_text(encoding="utf-8")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    page = environment.from_string(template).render(
        spec=spec,
        spec_text=spec_toml(spec),
        facts=run_facts(spec, records),
        plots=plots_of(records),
        scores=evaluation["scores"],
        quarters=_quarters(evaluation["scores"]),
        samples=evaluation["samples"],
        senses=sense_facts(spec),
        tensorboard=Path(spec.run_dir) / TENSORBOARD_FOLDER,
    )
    path = Path(spec.run_dir) / REPORT_FILE
    path.write_text(page, encoding="utf-8")
    return path


def _quarters(scores: dict[str, Any]) -> dict[str, list[float]]:
    """Return the KL of each quarter of the tokens, of the models that differ from the teacher."""
    found = {name: score.get("kl_by_entropy", []) for name, score in scores.items()}
    return {name: means for name, means in found.items() if any(means)}


def run_facts(spec: RunSpec, records: list[dict[str, float]]) -> dict[str, str]:
    """Return the main numbers of a run as text.

    A record also stands for the steps before it that have none ([monitor] log_every_steps); totals
    are then approximate and say so.
    """
    last = records[-1]
    steps = [record["step"] for record in records]
    num_steps = [step - before for before, step in itertools.pairwise([0, *steps])]
    # The first step also waits for the teacher to start, so rates leave it out.
    has_first_step = len(records) > 1 and steps[0] == 1
    first = 1 if has_first_step else 0
    about = "" if len(records) == last["step"] else "about "

    def total(key: str, first: int = 0) -> float:
        """Return the sum over all steps from the record with index `first`."""
        pairs = zip(records[first:], num_steps[first:], strict=True)
        return sum(record[key] * count for record, count in pairs)

    waited = total("teacher_wait_seconds", first) / max(total("step_seconds", first), 1e-9)
    tokens_per_second = total("tokens_per_second", first) / sum(num_steps[first:])
    bytes_per_token = total("link_bytes") / max(last["tokens"], 1)
    students = _count(spec.topology.num_students, "student")
    teachers = _count(spec.topology.num_teachers, "teacher")
    return {
        "steps": f"{int(last['step'])}",
        "tokens": f"{int(last['tokens']):,}",
        "time in steps": f"{about}{total('step_seconds'):.0f} s",
        "speed": f"{tokens_per_second:.0f} tokens/s",
        "waiting for the teacher": f"{waited:.1%} of the time after the first step",
        "teacher signal": f"{about}{bytes_per_token:.0f} bytes per token",
        "ranks": f"{students}, {teachers}",
        "skipped steps": f"{int(last['skipped'])}",
        **health_facts(records),
        **plan_facts(spec, records),
    }


def health_facts(records: list[dict[str, float]]) -> dict[str, str]:
    """Return launches, memory and the slowest student as text; nothing for an older version."""
    last = records[-1]
    if "attempt" not in last:
        return {}
    memory = f"{last['rss_bytes'] / GIB:.2f} GiB"
    if last["device_bytes"]:
        memory += f", {last['device_bytes'] / GIB:.2f} GiB of the GPU"
    factor = f"{last['slowest_factor']:.2f} times the others' computation time"
    facts = {
        "launches": f"{int(last['attempt'])}",
        "largest memory of a student": memory,
        "slowest student": f"{int(last['slowest_rank'])}: {factor}",
    }
    if last["save_seconds"]:
        facts["last save"] = f"training stood still for {last['save_seconds']:.1f} s"
    return facts


def _count(count: int, noun: str) -> str:
    """Return "1 student" or "2 students"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def plots_of(records: list[dict[str, float]]) -> list[tuple[str, str]]:
    """Return title and PNG data URI of each chart whose first curve has any value."""
    keys = {key for record in records for key in record}
    return [
        (title, plot(records, title, axis, curves))
        for title, axis, curves in (*PLOTS, *term_charts(keys))
        if curves[0][0] in keys
    ]


def plot(
    records: list[dict[str, float]], title: str, axis: str, curves: tuple[tuple[str, str], ...]
) -> str:
    """Return a chart of metrics over steps as a PNG data URI.

    curves: (key of a record, legend) each.
    """
    import matplotlib

    # Draws without a display; must be chosen before pyplot is imported.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), dpi=110)
    for key, label in curves:
        # Some values are measured at some steps only, and records of older versions lack some keys.
        present = [record for record in records if key in record]
        steps = [record["step"] for record in present]
        marker = "." if len(steps) < 20 else None
        values = [record[key] for record in present]
        axes.plot(steps, values, label=label, linewidth=1.6, marker=marker)
    axes.set(title=title, xlabel="step", ylabel=axis)
    shown = [record[key] for key, _ in curves for record in records if key in record]
    if not any(value < 0 for value in shown):
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    figure.tight_layout()
    uri = png_uri(figure)
    pyplot.close(figure)
    return uri


def png_uri(figure: Any) -> str:
    """Return a matplotlib figure as a PNG data URI, so that a page needs no other file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def sense_facts(spec: RunSpec) -> dict[str, str]:
    """Return the main numbers of the run's dictionary as text; nothing if it has none."""
    if not spec.uses_senses:
        return {}
    try:
        facts = open_dictionary(spec.senses.dictionary, verify=False).facts
    except InputError:
        # It may have been moved or deleted since. The rest of the report does not need it.
        return {}
    distance = facts["median_antonym_distance"]
    tokens, spans = f"{facts['num_tokens']:,} tokens", f"{facts['num_spans']:,} spans"
    return {
        "senses": f"{facts['num_rows']:,} of {tokens} and {spans}",
        "vectors they were made from": f"{facts['num_vectors']:,}",
        "tokens with synonyms or antonyms": f"{facts['num_related_tokens']:,}",
        "median squared distance between antonyms, per dimension": (
            "none" if distance is None else f"{distance:.2f}"
        ),
        "index": _index_fact(Path(spec.senses.dictionary) / INDEX_FOLDER),
    }


def _index_fact(folder: Path) -> str:
    """Return the recall of an index as text; "none" if there is no index."""
    manifest = _read_json(folder / "manifest.json")
    facts = manifest["facts"] if manifest else {}
    if facts.get("recall_at_10") is None:
        return "none"
    num_queries = facts["num_queries"]
    return f"recall of the 10 nearest {facts['recall_at_10']:.3f} ({num_queries} unseen states)"


def _read_json(path: Path) -> Any:
    """Return a file's content, or None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
