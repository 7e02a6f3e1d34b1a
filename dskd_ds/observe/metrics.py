"""metrics.jsonl and TensorBoard, written by rank 0: one record a step, every number under a name a reader understands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dskd_ds.spec import RunSpec, spec_toml

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

CHARTS: dict[str, str] = {
    "loss": "loss/total",
    "loss_ce": "loss/cross-entropy (nats)",
    "loss_kd": "loss/KL to the teacher (nats)",
    "loss_sense": "loss/sense term",
    "grad_norm": "optimiser/gradient norm",
    "lr": "optimiser/learning rate",
    "teacher_mass": "teacher signal/teacher's probability on its top k",
    "teacher_mass_at_1": "teacher signal/teacher's probability on its top k at temperature 1",
    "student_mass": "teacher signal/student's probability on the teacher's top k",
    "student_mass_at_1": "teacher signal/student's probability on the teacher's top k at temperature 1",
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
    "on_policy_share": "on-policy/share of the targets that the student wrote",
    "generate_seconds": "on-policy/seconds to write a step's text",
}
"""Key of metrics.jsonl -> tag in TensorBoard."""

TOGETHER: dict[str, dict[str, tuple[str, ...]]] = {
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
}
"""Custom-scalars layout: curves that belong on one chart. TensorBoard reads its tags as regular expressions."""

PUSH_STEPS, IDLE_PUSH = 10, 0.05
"""After so many steps with senses a user is warned if less than this share of S- was within the margin."""


class MetricsWriter:
    """Appends each `log_every_steps`-th record and the last; after a resume it goes on where the checkpoint was."""

    def __init__(self, spec: RunSpec, first_step: int, last_step: int) -> None:
        """first_step: steps that are done already. last_step: the number of the run's last one."""
        run_dir = Path(spec.run_dir)
        self._path = run_dir / METRICS_FILE
        kept = [line for line in read_lines(self._path) if json.loads(line)["step"] <= first_step]
        self._path.write_text("".join(f"{line}\n" for line in kept))
        self._file = self._path.open("a")
        self._every, self._last_step = spec.monitor.log_every_steps, last_step
        self._push = spec.loss.push
        self._push_active: list[float] = []
        self._board: Any = None
        if spec.monitor.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # Steps after `first_step` that a crashed run wrote are dropped by TensorBoard itself.
            self._board = SummaryWriter(
                str(run_dir / TENSORBOARD_FOLDER), purge_step=first_step + 1
            )
            self._board.add_custom_scalars(
                {
                    group: {
                        title: ["Multiline", [f"^{re.escape(CHARTS[key])}$" for key in keys]]
                        for title, keys in charts.items()
                    }
                    for group, charts in TOGETHER.items()
                }
            )
            self._board.add_text("run spec", f"```toml\n{spec_toml(spec)}\n```", first_step)

    def write(self, record: dict[str, float]) -> None:
        """One step's numbers; `step` counts from 1."""
        step = int(record["step"])
        self._warn_of_an_idle_push(record)
        if step % self._every and step != self._last_step:
            return
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board:
            for key, tag in CHARTS.items():
                self._board.add_scalar(tag, record[key], step)

    def _warn_of_an_idle_push(self, record: dict[str, float]) -> None:
        """Once: a hinge that hardly ever bites teaches nothing (docs/method.md, "Scale")."""
        pushes = (
            self._push > 0 and record["sense_with_antonyms"] + record["sense_with_neighbours"] > 0
        )
        if pushes:
            self._push_active.append(record["sense_push_active"])
        if (
            pushes
            and len(self._push_active) == PUSH_STEPS
            and sum(self._push_active) / PUSH_STEPS < IDLE_PUSH
        ):
            share = sum(self._push_active) / PUSH_STEPS
            tqdm.write(
                f"only {share:.1%} of the senses in S- are within the margin, so the push hardly ever acts.\n"
                '  raise [loss] margin, or set margin_unit = "median_antonym".',
                file=sys.stderr,
            )

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        if self._board:
            self._board.close()


def read_lines(path: Path) -> list[str]:
    """Whole lines of a metrics file; one that a crash cut short is left out."""
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
    """All records of a run."""
    return [json.loads(line) for line in read_lines(Path(run_dir) / METRICS_FILE)]
