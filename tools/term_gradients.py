"""Draws whether the gradient of a loss below the head predicts what the loss does to the KL.

    python -m tools.term_gradients studies/below_the_head --output tools/studies/below_the_head

Reads a finished study (`dskd sweep`): each run's metrics.jsonl, and study.json. Writes
gradients.json and gradients.png: for each arm with one loss below the head the cosine of its
gradient with that of all other losses, a mean over steps and seeds, and the arm's difference in
held-out KL to the reference.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path

import matplotlib as mpl

from dskd_ds.observe.charts import TERM_COSINE, TERM_SHARE
from dskd_ds.observe.metrics import read_metrics

mpl.use("Agg")  # draws without a display; must be chosen before pyplot is imported
from matplotlib import pyplot


def main() -> None:
    """Write the numbers and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, help="folder of a study")
    parser.add_argument("--output", type=Path, required=True, help="folder for JSON and picture")
    arguments = parser.parse_args()
    arms = gradients_of(arguments.study)
    (arguments.output / "gradients.json").write_text(json.dumps(arms, indent=1), encoding="utf-8")
    draw(arms, arguments.output / "gradients.png")


def gradients_of(study: Path) -> dict[str, dict[str, float]]:
    """Return, by arm, the means of cosine and share, and the difference in KL with its interval."""
    comparisons = json.loads((study / "study.json").read_text(encoding="utf-8"))["comparisons"]
    of_kl = {row["group"]: row for row in comparisons if row["metric"] == "kl"}
    arms: dict[str, dict[str, float]] = {}
    for arm, row in of_kl.items():
        cosines, shares = [], []
        for run_dir in sorted((study / "runs").glob(f"{arm}-[0-9]")):
            records = read_metrics(run_dir)
            cosines += values_of(records, TERM_COSINE)
            shares += values_of(records, TERM_SHARE)
        if cosines:
            arms[arm] = {
                "cosine": statistics.fmean(cosines),
                "share": statistics.fmean(shares),
                "kl_difference": row["difference"],
                "low": row["low"],
                "high": row["high"],
                "num_seeds": row["num_seeds"],
            }
    return arms


def values_of(records: list[dict[str, float]], beginning: str) -> list[float]:
    """Return the values of the one key that begins like this, step by step."""
    return [record[key] for record in records for key in record if key.startswith(beginning)]


def draw(arms: dict[str, dict[str, float]], path: Path) -> None:
    """Draw the difference in KL over the cosine, a point with its interval per arm."""
    figure, axes = pyplot.subplots(figsize=(8.6, 4.6), dpi=110)
    by_cosine = sorted(arms.items(), key=lambda arm: arm[1]["cosine"])
    for (name, arm), marker in zip(by_cosine, itertools.cycle("osD^vP"), strict=False):
        low, mean, high = arm["low"], arm["kl_difference"], arm["high"]
        errors = [[mean - low], [high - mean]]
        axes.errorbar(
            arm["cosine"], mean, yerr=errors, fmt=marker, capsize=2, linewidth=1, label=name
        )
    axes.axhline(0, color="#1b1f24", linewidth=0.8)
    axes.axvline(0, color="#1b1f24", linewidth=0.8)
    axes.set(
        xlabel="cosine of the term's gradient with that of all other losses (mean over steps)",
        ylabel="held-out KL minus that of KL alone (nats)",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
