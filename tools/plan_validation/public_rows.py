"""Public measured figures (tools/studies/public_rows.toml), and constants that are fitted to them.

Four constants are fitted. The error is reported on sources that were held out: for each source
the constants are fitted to all others, and then its rows are predicted. Tokens per second are
compared and not MFU, whose formulas differ. In a fit every source has the same weight, whatever the
number of its rows, and the loss is robust (soft L1 beyond 10 %).
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from scipy.optimize import least_squares

from dskd_ds.costs.clusters import Cluster, open_cluster
from dskd_ds.costs.constants import DEFAULT, Constants
from dskd_ds.costs.shapes import ModelShape, model_shape
from dskd_ds.costs.time import step_time
from dskd_ds.costs.work import Recompute, StepWork

ROWS_FILE = Path(__file__).resolve().parent.parent / "studies" / "public_rows.toml"
BOUNDS = {
    "matmul_ampere": (0.4, 0.95),
    "matmul_hopper": (0.4, 0.95),
    "traffic_eager": (1.0, 6.0),
    "hidden_communication": (0.0, 1.0),
}
"""The fitted constants and what they may be."""
ROBUST_SHARE = 0.1
"""Relative error beyond which a row's weight decreases."""
STATE_BYTES = 16
"""Bytes per parameter that FSDP shards: float32 weights, gradients and two moments."""
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One published figure."""

    source: str
    model: str
    cluster: str
    gpus: int
    row_tokens: int
    micro_batch: int
    accumulation: int
    recompute: Recompute
    gradient_bytes: int
    tokens_per_second_per_gpu: float
    compiled: bool = False
    gpus_per_node: int | None = None
    memory: float | None = None
    not_counted: str = ""

    def error(self, constants: Constants) -> float:
        """Return the relative error of the predicted tokens per second."""
        return predicted(self, constants) / self.tokens_per_second_per_gpu - 1


@cache
def _content() -> tuple[tuple[Row, ...], dict[str, ModelShape], dict[str, dict[str, str]]]:
    content = tomllib.loads(ROWS_FILE.read_text(encoding="utf-8"))
    shapes = {name: model_shape(config, name) for name, config in content["models"].items()}
    rows = tuple(Row(**row) for row in content["table"]["rows"])
    return rows, shapes, content["sources"]


def all_rows() -> tuple[Row, ...]:
    """Return every row of the file."""
    return _content()[0]


def sources() -> dict[str, dict[str, str]]:
    """Return page and remark of each source."""
    return _content()[2]


def counted_rows() -> list[Row]:
    """Return the rows that the fit and the targets use."""
    return [row for row in all_rows() if not row.not_counted]


@cache
def _cluster(name: str, gpus_per_node: int | None) -> Cluster:
    cluster = open_cluster(name)
    return replace(cluster, gpus_per_node=gpus_per_node) if gpus_per_node else cluster


@cache
def work_of(row: Row) -> StepWork:
    """Return the work of a row's training step."""
    shape = _content()[1][row.model]
    return StepWork(
        shape=shape,
        num_ranks=row.gpus,
        row_tokens=row.row_tokens,
        rows_per_micro_batch=row.micro_batch,
        num_micro_batches=row.accumulation,
        trained_layers=shape.num_layers,
        recompute=row.recompute,
        compiled=row.compiled,
        gradient_bytes=row.gradient_bytes,
    )


def predicted(row: Row, constants: Constants) -> float:
    """Return the predicted tokens per second and GPU."""
    cluster = _cluster(row.cluster, row.gpus_per_node)
    return step_time(work_of(row), cluster, constants).tokens_per_second / row.gpus


def fit(rows: Sequence[Row], base: Constants = DEFAULT) -> Constants:
    """Return the constants that predict some rows best. base: those that are not fitted."""
    rows_per_source = Counter(row.source for row in rows)

    def with_values(values: Sequence[float]) -> Constants:
        return replace(base, **dict(zip(BOUNDS, map(float, values), strict=True)))

    def residuals(values: Sequence[float]) -> list[float]:
        constants = with_values(values)
        return [
            math.log(1 + row.error(constants)) / math.sqrt(rows_per_source[row.source])
            for row in rows
        ]

    # A fixed start, so that the fit does not depend on the constants that were fitted before.
    start = [(low + high) / 2 for low, high in BOUNDS.values()]
    limits = tuple(zip(*BOUNDS.values(), strict=True))
    found = least_squares(
        residuals, start, bounds=limits, loss="soft_l1", f_scale=ROBUST_SHARE, x_scale=start
    )
    return with_values(found.x)


def held_out_errors(
    base: Constants = DEFAULT,
) -> dict[str, tuple[Constants, list[tuple[Row, float]]]]:
    """Return for each source the constants of a fit without it, and the errors of its rows.

    base: the constants that are not fitted.
    """
    rows = counted_rows()
    errors = {}
    for source in sorted({row.source for row in rows}):
        constants = fit([row for row in rows if row.source != source], base)
        own = [row for row in rows if row.source == source]
        errors[source] = constants, [(row, row.error(constants)) for row in own]
    return errors


def memory_differences() -> list[tuple[str, float, float]]:
    """Return (which, measured, predicted) GiB that 128 instead of 8 GPUs save, of torchtitan."""
    rows = [row for row in counted_rows() if row.source == "torchtitan"]
    differences = []
    for compiled in (False, True):
        few, many = sorted(
            (row for row in rows if row.compiled == compiled), key=lambda row: row.gpus
        )
        assert few.memory is not None
        assert many.memory is not None
        parameters = work_of(few).shape.num_parameters
        saved = STATE_BYTES * parameters * (1 / few.gpus - 1 / many.gpus) / GIB
        name = "compiled" if compiled else "not compiled"
        differences.append((name, few.memory - many.memory, saved))
    return differences
