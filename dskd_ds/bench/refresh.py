"""A dictionary refreshed with a second corpus against one built from both at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dskd_ds.bench.measure import Figure
from dskd_ds.bench.states import bench_rows, heldout_error, points_of_senses, split
from dskd_ds.senses.build.cluster import Points, cluster
from dskd_ds.senses.build.refresh import refreshed
from dskd_ds.spec import RunSpec


def bench_refresh(spec: RunSpec) -> list[Figure]:
    """Two halves of the corpus's blocks are the corpora A and B; the states held out are of both."""
    kept, held_out = split(bench_rows(spec))
    in_first = kept["place"] // spec.data.block_tokens % 2 == 0
    first, second = Points.of_rows(kept[in_first]), Points.of_rows(kept[~in_first])
    device = torch.device("cpu")
    figures = []
    for clustering in ("fixed", "adaptive"):
        settings = spec.senses.model_copy(update={"clustering": clustering})
        before = cluster(first, settings, spec.seed, device)
        after = refreshed(points_of_senses(before), second, settings, spec.seed, device)
        at_once = cluster(Points.of_rows(kept), settings, spec.seed, device)
        errors = {
            "A": heldout_error(before, held_out),
            "A then B": heldout_error(after, held_out),
            "A+B": heldout_error(at_once, held_out),
        }
        notes = {name: f"{error:.4f}" for name, error in errors.items()} | {
            "rows": f"{len(before.owners)}, {len(after.owners)}, {len(at_once.owners)}"
        }
        figures.append(
            Figure(
                "refresh_error_ratio"
                if clustering == spec.senses.clustering
                else f"refresh_error_ratio_{clustering}",
                f"held-out error, refreshed A then B against built from A+B ({clustering})",
                errors["A then B"] / errors["A+B"],
                1.02,
                "lower",
                notes,
            )
        )
    return figures


BENCHES: dict[str, Callable[[RunSpec], list[Figure]]] = {"refresh": bench_refresh}
