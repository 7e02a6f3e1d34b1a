"""Writes metrics.jsonl and TensorBoard, one record per step from rank 0; reads metrics.jsonl."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from dskd_ds.files.atomic import write_text
from dskd_ds.observe.health import HealthMetrics
from dskd_ds.spec import RunSpec, spec_toml

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

CHARTS: dict[str, str] = {
    "loss": "loss/total",
    "loss_ce": "loss/cross-entropy (nats)",
    "loss_kd": "loss/KL to the teacher (nats)",
    "loss_sense": "loss/sense term",
    "heldout_loss": "loss/cross-entropy on held-out text (nats)",
    "grad_norm": "optimiser/gradient norm",
    "lr": "optimiser/learning rate",
    "unchanged_weights": "optimiser/share of updates lost in bfloat16",
    "teacher_mass": "teacher signal/teacher's probability on its top k",
    "teacher_mass_at_1": "teacher signal/teacher's probability on its top k at temperature 1",
    "student_mass": "teacher signal/student's probability on the teacher's top k",
    "student_mass_at_1": (
        "teacher signal/student's probability on the teacher's top k at temperature 1"
    ),
    "topk_overlap": "teacher signal/overlap of the two top-k sets",
    "sense_positions": "senses/positions a step",
    "sense_pull_distance": "senses/squared distance to S+ per dimension",
    "sense_push_active": "senses/share of S- within the margin",
    "sense_with_synonyms": "sense coverage/share of positions with synonyms",
    "sense_with_antonyms": "sense coverage/share of positions with antonyms",
    "sense_with_neighbours": "sense coverage/share of positions with neighbours from the index",
    "sense_with_nothing": "sense coverage/share of positions with no sense at all",
    "step_seconds": "speed/seconds a step",
    "teacher_wait_seconds": "speed/seconds waited for the teacher",
    "sense_wait_seconds": "speed/seconds waited for senses",
    "tokens_per_second": "speed/tokens per second",
    "link_bytes": "speed/bytes over the link",
    "link_bytes_per_token": "speed/bytes over the link per token",
    "cache_hit_rate": "speed/share of the teacher's signal that the cache had",
    "skipped": "health/skipped steps",
    "skipped_for_loss": "health/steps skipped because a loss was not finite",
    "skipped_for_spike": "health/steps skipped because the loss was a spike",
    "skipped_for_gradient": "health/steps skipped because the gradients were not finite",
    "skipped_for_overflow": "health/steps skipped because gradients overflowed in float16",
    "rollbacks": "health/rollbacks to an earlier checkpoint",
    "teacher_wait_share": "health/students wait for the teacher (share of a step)",
    "teacher_idle_share": "health/teachers wait for requests (share of the time)",
    "teacher_busy_share": "health/teachers compute (share of the time)",
    "teacher_queue": "health/longest queue of a teacher (requests)",
    "teachers": "health/teachers that serve",
    "teacher_refusals": "health/requests that teachers refused",
    "slowest_rank": "health/slowest student",
    "slowest_factor": "health/slowest student's computation time over the others'",
    "rss_bytes": "health/largest memory of a student (bytes)",
    "device_bytes": "health/largest GPU memory of a student (bytes)",
    "engine_bytes": "health/largest memory that student, optimiser and steps took (bytes)",
    "heldout_seconds": "health/seconds to measure the loss on held-out text",
    "save_seconds": "health/seconds that the last save took",
    "save_age_seconds": "health/seconds since the last save",
    "attempt": "health/attempt",
    "on_policy_share": "on-policy/share of the targets that the student wrote",
    "generate_seconds": "on-policy/seconds to write a step's text",
}
"""TensorBoard's tag of each key of metrics.jsonl."""

TERM_LOSS = "loss_layer_"
"""What the keys of losses below the head begin with; layer and kind follow."""
LAYER_LOSS = "repair_loss_layer_"
"""What the keys of a repair's losses begin with; the layer's number follows."""

COMBINED_CHARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Losses": {"terms of the loss": ("loss", "loss_ce", "loss_kd", "loss_sense")},
    "Teacher signal": {
        "probability on the teacher's top k, and overlap": (
            "teacher_mass",
            "teacher_mass_at_1",
            "student_mass",
            "student_mass_at_1",
            "topk_overlap",
        )
    },
    "Senses": {
        "pull and push": ("sense_pull_distance", "sense_push_active"),
        "share of positions with": (
            "sense_with_synonyms",
            "sense_with_antonyms",
            "sense_with_neighbours",
            "sense_with_nothing",
        ),
    },
    "Where a step's time goes": {
        "seconds": ("step_seconds", "teacher_wait_seconds", "sense_wait_seconds")
    },
    "Health": {
        "who waits for whom (share of the time)": (
            "teacher_wait_share",
            "teacher_idle_share",
            "teacher_busy_share",
        ),
        "slowest student's computation time over the others'": ("slowest_factor",),
        "memory (bytes)": ("rss_bytes", "device_bytes", "engine_bytes"),
        "saves (seconds)": ("save_seconds", "save_age_seconds"),
    },
}
"""Layout of TensorBoard's custom scalars: tab -> chart -> keys whose curves share the chart."""

PUSH_STEPS = 10
"""Number of steps with senses in S- whose mean decides whether the push is idle."""
IDLE_PUSH_SHARE = 0.05
"""The push is idle if a smaller share of S- than this was within the margin."""


class MetricsWriter:
    """Appends each `log_every_steps`-th record and the last one.

    When a run is resumed, the records after its checkpoint are replaced.
    """

    def __init__(
        self, spec: RunSpec, first_step: int, last_step: int, board_dir: Path | None = None
    ) -> None:
        """first_step: number of steps that are done already. last_step: the run's last step.

        board_dir: where TensorBoard's files go; None for `tensorboard/` of the run directory.
        """
        self._every, self._last_step = spec.monitor.log_every_steps, last_step
        self._push_weight = spec.loss.push
        self._active_shares: list[float] = []
        run_dir = Path(spec.run_dir)
        self._path, self._has_warned = run_dir / METRICS_FILE, False
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._health = HealthMetrics(run_dir)
        self._first_step = first_step
        with self._warn_of_lost_metrics():
            self._file = self._open()
        with self._warn_of_lost_metrics():
            if spec.monitor.tensorboard:
                board_dir = board_dir or run_dir / TENSORBOARD_FOLDER
                self._board = open_board(spec, first_step, board_dir)
            if self._board:
                attempt = self._health.describe_attempt(first_step)
                self._board.add_text("attempts", attempt, first_step)

    def _open(self) -> TextIO:
        """Open metrics.jsonl behind the records of the steps that were done before this launch."""
        keep_lines(self._path, last_step=self._first_step)
        return self._path.open("a")

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


def tag_of(key: str) -> str | None:
    """Return TensorBoard's tag of a key of metrics.jsonl; None for one that has no chart."""
    if key.startswith(LAYER_LOSS):
        return f"repair/loss of layer {key.removeprefix(LAYER_LOSS)}"
    if key.startswith(TERM_LOSS):
        layer, kind = key.removeprefix(TERM_LOSS).split("_")
        return f"loss/layer {layer}, {kind}"
    return CHARTS.get(key)


def open_board(spec: RunSpec, first_step: int, board_dir: Path) -> SummaryWriter:
    """Return the run's TensorBoard writer, with the layout of the charts and the run spec.

    first_step: number of steps that are done already.
    """
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard drops the later steps that an earlier, crashed process of the run wrote.
    board = SummaryWriter(str(board_dir), purge_step=first_step + 1)
    board.add_custom_scalars(
        {
            tab: {chart: ["Multiline", _tag_patterns(keys)] for chart, keys in charts.items()}
            for tab, charts in COMBINED_CHARTS.items()
        }
    )
    board.add_text("run spec", f"```toml\n{spec_toml(spec)}\n```", first_step)
    return board


def _tag_patterns(keys: tuple[str, ...]) -> list[str]:
    """Return the tags of some keys as TensorBoard's layout wants them: as regular expressions."""
    return [f"^{re.escape(CHARTS[key])}$" for key in keys]


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
    for line in path.read_text().splitlines():
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
