"""All benches of `dskd senses bench`, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dskd_ds.bench import adaptive, collection, index, kmeans, lookup, pages, refresh
from dskd_ds.bench.measure import Figure
from dskd_ds.spec import RunSpec

BENCHES: Mapping[str, Callable[[RunSpec], list[Figure]]] = {
    **lookup.BENCHES,
    **index.BENCHES,
    **pages.BENCHES,
    **kmeans.BENCHES,
    **adaptive.BENCHES,
    **collection.BENCHES,
    **refresh.BENCHES,
}
