"""All benches of the wire, by name: errors of float8 states, and bytes per token."""

from __future__ import annotations

from collections.abc import Callable

from dskd_ds.bench import wire_bytes, wire_error
from dskd_ds.bench.measure import Figure

BENCHES: dict[str, Callable[[], list[Figure]]] = {**wire_error.BENCHES, **wire_bytes.BENCHES}
