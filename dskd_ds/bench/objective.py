"""All benches of the objective, by name: memory and time, then gradients on real text."""

from __future__ import annotations

from collections.abc import Callable

from dskd_ds.bench import objective_cost, objective_gradients
from dskd_ds.bench.measure import Figure

BENCHES: dict[str, Callable[[], list[Figure]]] = {
    **objective_cost.BENCHES,
    **objective_gradients.BENCHES,
}
