"""The quickstart's result: seconds per stage, a summary as JSON, and what is printed at the end."""

from __future__ import annotations

import json
from pathlib import Path

from dskd_ds.spec import RunSpec

SECONDS_FILE = "stage_seconds.json"
SUMMARY_FILE = "summary.json"


def record_seconds(run_dir: Path, stage: str, seconds: float) -> None:
    """Add a stage's time to the run's file."""
    path = run_dir / SECONDS_FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(known | {stage: round(seconds, 1)}, indent=1), encoding="utf-8")


def write_summary(spec: RunSpec) -> None:
    """Write `summary.json`: the run's main numbers in one file."""
    from dskd_ds.observe.metrics import read_metrics
    from dskd_ds.senses.dictionary.dictionary import open_dictionary

    run_dir = Path(spec.run_dir)
    scores = json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))["scores"]
    content = {
        "perplexity_teacher": scores["teacher"]["perplexity"],
        "perplexity_before": scores["before"]["perplexity"],
        "perplexity_after": scores["after"]["perplexity"],
        "kl_before": scores["before"]["kl"],
        "kl_after": scores["after"]["kl"],
        "perplexity_after_error": scores["after"]["perplexity_error"],
        "kl_after_error": scores["after"]["kl_error"],
        "tokens": int(read_metrics(run_dir)[-1]["tokens"]),
        "senses": open_dictionary(spec.senses.dictionary, verify=False).facts["num_rows"],
        "seconds": json.loads((run_dir / SECONDS_FILE).read_text(encoding="utf-8")),
    }
    (run_dir / SUMMARY_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def print_result(spec: RunSpec) -> None:
    """Print the summary and where to look next."""
    run_dir = Path(spec.run_dir)
    summary = json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
    before, after = summary["perplexity_before"], summary["perplexity_after"]
    print(
        f"\nheld-out perplexity: teacher {summary['perplexity_teacher']:.1f},"
        f" student {before:.1f} -> {after:.1f} ± {summary['perplexity_after_error']:.1f}"
        f" ({after / before:.2f}x), KL to the teacher {summary['kl_before']:.2f} ->"
        f" {summary['kl_after']:.2f} ± {summary['kl_after_error']:.2f},"
        f" {summary['tokens']:,} tokens, {summary['senses']:,} senses"
    )
    print(f"open {run_dir / 'report.html'}")
    print(f"or look at the curves: tensorboard --logdir {run_dir / 'tensorboard'}")
    print(f'the student: AutoModelForCausalLM.from_pretrained("{run_dir / "student"}")')
    print("a run of your own: dskd init my.toml")
