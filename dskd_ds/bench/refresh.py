"""Compares a dictionary refreshed with a second corpus with one built from both at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dskd_ds.bench.measure import Figure
from dskd_ds.bench.states import bench_rows, heldout_error, points_of_senses, split
from dskd_ds.senses.build.cluster import Points, cluster
from dskd_ds.senses.build.refresh import refreshed
from dskd_ds.spec import RunSpec


def bench_refresh(spec: RunSpec) -> list[Figure]:
    """Return the ratio of held-out errors for each clustering.

    Corpora A and B are the even and the odd blocks of the spec's corpus. The held-out states come
    from both.
    """
    kept, held_out = split(bench_rows(spec))
    in_first = kept["position"] // spec.data.block_tokens % 2 == 0
    first, second = Points.of_rows(kept[in_first]), Points.of_rows(kept[~in_first])
    device = torch.device("cpu")
    figures = []
    for clustering in ("fixed", "adaptive"):
        settings = spec.senses.model_copy(update={"clustering": clustering})
        before = cluster(first, settings, spec.seed, device)
        # Of corpus A, a refresh knows only the senses that were made from it.
        after = refreshed(points_of_senses(before), second, settings, spec.seed, device)
        at_once = cluster(Points.of_rows(kept), settings, spec.seed, device)
        errors = {
            "A": heldout_error(before, held_out),
            "A then B": heldout_error(after, held_out),
            "A+B": heldout_error(at_once, held_out),
        }
        notes = {name: f"{error:.4f}" for name, error in errors.items()}
        notes["rows"] = ", ".join(str(len(senses.owners)) for senses in (before, after, at_once))
        is_configured = clustering == spec.senses.clustering
        key = "refresh_error_ratio" if is_configured else f"refresh_error_ratio_{clustering}"
        figures.append(
            Figure(
                key=key,
                what=f"held-out error: refreshed A then B / built from A+B ({clustering})",
                value=errors["A then B"] / errors["A+B"],
                target=1.02,
                better="lower",
                notes=notes,
            )
        )
    return figures


BENCHES: dict[str, Callable[[RunSpec], list[Figure]]] = {"refresh": bench_refresh}
