"""Writes metrics.jsonl and TensorBoard, one record per step from rank 0; reads metrics.jsonl."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from dskd_ds.files.atomic import write_text
from dskd_ds.observe.charts import combined_charts, tag_of
from dskd_ds.observe.health import HealthMetrics
from dskd_ds.spec import RunSpec, spec_toml

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

PUSH_STEPS = 10
"""Number of steps with senses in S- whose mean decides whether the push is idle."""
IDLE_PUSH_SHARE = 0.05
"""The push is idle if a smaller share of S- than this was within the margin."""


class MetricsWriter:
    """Appends each `log_every_steps`-th record and the last one.

    When a run is resumed, the records after its checkpoint are replaced.
    """

    def __init__(
        self, spec: RunSpec, first_step: int, last_step: int, whole_run_dir: Path | None = None
    ) -> None:
        """first_step: number of steps that are done already. last_step: the run's last step.

        whole_run_dir: of which a repair's run_dir is a folder; None if it is the spec's. There the
        launch and its teachers say what they do, and TensorBoard looks.
        """
        self._every, self._last_step = spec.monitor.log_every_steps, last_step
        self._push_weight = spec.loss.push
        self._active_shares: list[float] = []
        run_dir = Path(spec.run_dir)
        whole_run_dir = whole_run_dir or run_dir
        self._path, self._has_warned = run_dir / METRICS_FILE, False
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._health = HealthMetrics(whole_run_dir)
        self._first_step = first_step
        with self._warn_of_lost_metrics():
            self._file = self._open()
        with self._warn_of_lost_metrics():
            if spec.monitor.tensorboard:
                part = run_dir.relative_to(whole_run_dir)
                board_dir = whole_run_dir / TENSORBOARD_FOLDER / part
                self._board = open_board(spec, first_step, board_dir)
            if self._board:
                attempt = self._health.describe_attempt(first_step)
                self._board.add_text("attempts", attempt, first_step)

    def _open(self) -> TextIO:
        """Open metrics.jsonl behind the records of the steps that were done before this launch."""
        keep_lines(self._path, last_step=self._first_step)
        return self._path.open("a", encoding="utf-8")

    def write(self, record: dict[str, float]) -> None:
        """Write the metrics of one step; `step` counts from 1.

        A step whose loss on held-out text was measured is always written. A disk that is full or
        read-only costs one warning, not the run.
        """
        step = int(record["step"])
        self._report_idle_push(record)
        is_measured = "heldout_loss" in record
        if step % self._every and step != self._last_step and not is_measured:
            return
        record = record | self._health.metrics()
        with self._warn_of_lost_metrics():
            # A flush that fails keeps what is in the buffer, and the next one tries it again.
            self._file = self._file or self._open()
            self._file.write(json_line(record) + "\n")
            self._file.flush()
        with self._warn_of_lost_metrics():
            if self._board:
                for key, value in record.items():
                    tag = tag_of(key)
                    if tag is not None:
                        self._board.add_scalar(tag, value, step)

    def _report_idle_push(self, record: dict[str, float]) -> None:
        """Warn once if hardly any sense of S- is within the margin: the push then has no effect.

        Source: docs/method.md, "Scale".
        """
        has_push_senses = record["sense_with_antonyms"] + record["sense_with_neighbours"] > 0
        if not (self._push_weight > 0 and has_push_senses):
            return
        self._active_shares.append(record["sense_push_active"])
        # Equal only once, so the warning is printed at most once.
        if len(self._active_shares) != PUSH_STEPS:
            return
        share = sum(self._active_shares) / PUSH_STEPS
        if share < IDLE_PUSH_SHARE:
            tqdm.write(
                f"only {share:.1%} of the senses in S- are within the margin,"
                " so the push hardly ever acts.\n"
                '  raise [loss] margin, or set margin_unit = "median_antonym".',
                file=sys.stderr,
            )

    def close(self) -> None:
        """Write what is buffered and close the files."""
        with self._warn_of_lost_metrics():
            if self._file:
                self._file.close()
        with self._warn_of_lost_metrics():
            if self._board:
                self._board.close()

    @contextmanager
    def _warn_of_lost_metrics(self) -> Iterator[None]:
        """Print a warning instead of raising OSError, the first time that it happens."""
        try:
            yield
        except OSError as error:
            if not self._has_warned:
                tqdm.write(
                    f"warning: {self._path.parent}: metrics cannot be written ({error}).\n"
                    "  training goes on without them; free the disk to get the later ones.",
                    file=sys.stderr,
                )
            self._has_warned = True


def open_board(spec: RunSpec, first_step: int, board_dir: Path) -> SummaryWriter:
    """Return the run's TensorBoard writer, with the layout of the charts and the run spec.

    first_step: number of steps that are done already.
    """
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard drops the later steps that an earlier, crashed process of the run wrote.
    board = SummaryWriter(str(board_dir), purge_step=first_step + 1)
    board.add_custom_scalars(combined_charts())
    board.add_text("run spec", f"```toml\n{spec_toml(spec)}\n```", first_step)
    return board


def json_line(record: dict[str, float]) -> str:
    """Return a record as JSON, which has no NaN and no infinity: they become null."""
    finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
    return json.dumps(finite)


def keep_lines(path: Path, last_step: int) -> None:
    """Drop the records after a step from a metrics file; it stays as it was if that fails."""
    if not path.is_file():
        return
    kept = [line for line in read_lines(path) if json.loads(line)["step"] <= last_step]
    write_text(path, "".join(f"{line}\n" for line in kept))


def read_lines(path: Path) -> list[str]:
    """Return the complete lines of a metrics file, without a line that a crash cut short."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            json.loads(line)
        except ValueError:
            continue
        lines.append(line)
    return lines


def read_metrics(run_dir: str | Path) -> list[dict[str, float]]:
    """Return all records of a run, by ascending step. A value that was not finite is NaN."""
    records = [json.loads(line) for line in read_lines(Path(run_dir) / METRICS_FILE)]
    return [
        {key: math.nan if value is None else value for key, value in record.items()}
        for record in records
    ]
