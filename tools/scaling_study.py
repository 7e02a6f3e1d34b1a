"""The scaling study: tools/studies/scaling.md, its figures, and its numbers as JSON.

    python -m tools.scaling_study

No number in it was measured on a GPU by this project. Everything is computed from the plan's
formulas, whose constants are fitted to public figures or assumed; each section names what it
depends on.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import matplotlib as mpl

from dskd_ds.costs.clusters import open_cluster, shipped_clusters
from tools.plan_validation.finding import Table
from tools.scaling import faults, roles, scale, sensitivity, signals
from tools.scaling.section import Section
from tools.scaling.setting import model_sources, models

STUDIES = Path(__file__).resolve().parent / "studies"
SECTIONS = (
    scale.weak,
    scale.strong,
    roles.teachers,
    roles.senses,
    signals.signals,
    scale.largest,
    faults.failures,
    faults.unevenness,
    sensitivity.sensitivity,
)
INTRODUCTION = """# Scaling study

Students of 1B to 70B parameters, teachers of 8B to 405B, on A100, H100 and H200, 8 to 1,024 GPUs.
Written by `python -m tools.scaling_study`, without any GPU.

**What the numbers are.** Times come from `dskd_ds/costs/time.py`, memory from
`dskd_ds/costs/memory.py`, and what uneven machines and failures cost from the simulator
(`dskd_ds/costs/simulate/`). Four constants are fitted to public measured figures. Tokens/s of
sources that were held out are off by 12.5 % (median) and 27.8 % (worst):
[plan_validation.md](plan_validation.md). The others are published, counted or assumed. The last
section lists every constant with its range and source, and how far it moves the results.

**What was never measured:** this project on a GPU. Teachers, the objective and the choice of senses
follow from counts of operations and bytes only.
"""


def main() -> None:
    """Compute all sections and write the page."""
    mpl.use("Agg")
    started = time.monotonic()
    sections = []
    for make in SECTIONS:
        section = make()
        if section.draw:
            section.draw(STUDIES / f"scaling_{section.name}.png")
        sections.append(section)
        print(f"{section.title}: {time.monotonic() - started:.0f} s")
    (STUDIES / "scaling.md").write_text(page(sections), encoding="utf-8")
    (STUDIES / "scaling.json").write_text(
        json.dumps(numbers(sections), indent=1) + "\n", encoding="utf-8"
    )


def page(sections: list[Section]) -> str:
    """Return the whole page."""
    inputs = [model_table().markdown(), cluster_table().markdown()]
    parts = [INTRODUCTION, *[section.markdown() for section in sections]]
    return "\n".join([*parts, "## Models and clusters\n", "\n\n".join(inputs)]) + "\n"


def numbers(sections: list[Section]) -> dict[str, object]:
    """Return the tables for a JSON file."""
    return {
        section.name: {
            table.title: {"columns": table.columns, "rows": table.rows} for table in section.tables
        }
        for section in sections
    }


def model_table() -> Table:
    """Return the models and where their sizes are from."""
    rows = [
        [
            name,
            f"{shape.num_parameters / 1e9:.2f} billion",
            shape.num_layers,
            shape.hidden_size,
            shape.vocab_size,
            model_sources()[name],
        ]
        for name, shape in models().items()
    ]
    columns = ["name", "parameters", "layers", "hidden size", "vocabulary", "config.json of"]
    return Table("Models", "Only sizes matter here.", columns, rows)


def cluster_table() -> Table:
    """Return the clusters and where their numbers are from."""
    rows = []
    for name in shipped_clusters():
        cluster = open_cluster(name)
        rows.append(
            [
                name,
                f"{cluster.memory_bytes / 2**30:.0f} GiB",
                f"{cluster.flops_per_second / 1e12:.0f} TFLOP/s",
                f"{cluster.memory_bandwidth / 1e12:.2f} TB/s",
                f"{cluster.node_bandwidth / 1e9:.0f} GB/s",
                f"{cluster.network_bandwidth / 1e9:.0f} GB/s",
                "; ".join(cluster.sources),
            ]
        )
    columns = ["name", "memory", "peak", "memory bandwidth", "in the node", "network", "sources"]
    text = "Per GPU; bandwidths of links in one direction (`dskd_ds/costs/cluster_files/`)."
    return Table("Clusters", text, columns, rows)


if __name__ == "__main__":
    main()
