"""`dskd eval --watch RUN`: scores each saved checkpoint beside a running training.

Each checkpoint is scored by a process of its own (commands/score_checkpoint.py), so that a damaged
one ends that process only, and its memory is freed. Files of a checkpoint are linked before they
are read: the training may delete it meanwhile.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.files.links import link_folder
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.observe.evidence import read_evidence
from dskd_ds.observe.metrics import TENSORBOARD_FOLDER
from dskd_ds.observe.run_state import outcome
from dskd_ds.runtime.guarded import GuardedProcess
from dskd_ds.spec import SPEC_FILE, RunSpec, load_spec
from dskd_ds.student.checkpoint.folders import checkpoint_dir, complete_tags
from dskd_ds.student.run_lock import read_lease

SCORES_FILE = "checkpoints.jsonl"
"""File in RUN_DIR/evaluation with a line per scored checkpoint."""
ARGV = "task_argv"
"""Key of a line: what the questions were asked with; absent for held-out text."""
HELD_FOLDER = "watched"
"""Folder in RUN_DIR/evaluation for the checkpoint that is being scored."""
BOARD_FOLDER = "evaluation"
"""Folder in RUN_DIR/tensorboard: curves of their own, because a resumed training cuts its own."""


@dataclass
class Watcher:
    """Scores the checkpoints of one run."""

    run_dir: Path
    task_argv: Sequence[str]
    """Arguments of commands/score_checkpoint.py for question answering; empty: held-out text."""
    failed: set[str] = field(default_factory=set)
    """Checkpoints whose scoring failed; they are not tried again."""
    removed: set[str] = field(default_factory=set)
    """Checkpoints that the training deleted before they were scored."""

    @property
    def folder(self) -> Path:
        """The run's folder of scores."""
        return self.run_dir / "evaluation"

    def scored(self) -> list[dict[str, Any]]:
        """Return the lines of what this watcher scores: held-out text, or the same questions.

        A line without arguments is of held-out text, or of a version that did not write them.
        """
        argv = list(self.task_argv)
        return [line for line in read_scores(self.run_dir) if line.get(ARGV, []) == argv]

    def score_new_ones(self, spec: RunSpec) -> int:
        """Score the checkpoints that have no scores yet, oldest first; returns their number."""
        count = 0
        # Listed anew after each: scoring takes a while, and the training goes on.
        while (tag := self._next(spec)) is not None:
            self._score(spec, tag)
            count += 1
        return count

    def _next(self, spec: RunSpec) -> str | None:
        scored = {line["identity"] for line in self.scored()}
        for tag in complete_tags(spec):
            identity = _identity(checkpoint_dir(spec) / tag)
            if identity and identity not in scored | self.failed | self.removed:
                return tag
        return None

    def _score(self, spec: RunSpec, tag: str) -> None:
        """Score one checkpoint in a process of its own, and add its line."""
        identity = _identity(checkpoint_dir(spec) / tag)
        held = self.folder / HELD_FOLDER / tag
        try:
            is_held = identity is not None and hold(checkpoint_dir(spec) / tag, held)
        except OSError as error:
            print(f"{tag}: cannot be linked or copied to {held}: {error}", flush=True)
            self.failed.add(identity or tag)
            return
        if identity is None or not is_held:
            print(f"{tag}: deleted by the training before it was scored", flush=True)
            self.removed.add(identity or tag)
            return
        try:
            code = _run_to_end(self._command(tag, held))
            result = held / "scores.json"
            if code or not result.is_file():
                print(f"{tag}: scoring ended with exit code {code}; it is left out", flush=True)
                self.failed.add(identity)
                return
            scores = json.loads(result.read_text(encoding="utf-8"))
            step = int(tag.rpartition("-")[2])
            line = {"step": step, "identity": identity, "scores": scores}
            if self.task_argv:
                line[ARGV] = list(self.task_argv)
            with (self.folder / SCORES_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self._draw(step, scores)
            shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
            print(f"{tag}: {shown}", flush=True)
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def _command(self, tag: str, held: Path) -> list[str]:
        argv = ["--spec", str(self.run_dir / SPEC_FILE), "--set", f"run_dir={self.run_dir}"]
        module = [sys.executable, "-m", "dskd_ds.commands.score_checkpoint"]
        return [*module, *argv, "--tag", tag, "--checkpoint", str(held), *self.task_argv]

    def _draw(self, step: int, scores: dict[str, float]) -> None:
        """Add a point to each curve of TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(self.run_dir / TENSORBOARD_FOLDER / BOARD_FOLDER))
        for key, value in scores.items():
            board.add_scalar(f"evaluation/{key}", value, step)
        board.close()


def _identity(checkpoint: Path) -> str | None:
    """Return what tells a checkpoint from another one of the same step; None if it is gone."""
    try:
        return f"{checkpoint.name} {(checkpoint / MANIFEST_FILE).stat().st_mtime_ns}"
    except OSError:
        return None


def hold(checkpoint: Path, held: Path) -> bool:
    """Link a checkpoint's files into a folder, where they outlive the checkpoint.

    Copies where links are not possible. Returns False if the checkpoint was deleted meanwhile.
    Raises OSError if it is still there and cannot be linked or copied.
    """
    shutil.rmtree(held, ignore_errors=True)
    held.parent.mkdir(parents=True, exist_ok=True)
    try:
        link_folder(checkpoint, held)
    except OSError:  # shutil.Error is one: what went wrong with each file
        shutil.rmtree(held, ignore_errors=True)
        if (checkpoint / MANIFEST_FILE).is_file():
            raise
        return False
    # Its manifest goes first when a checkpoint is deleted: then files may be missing here.
    return (held / MANIFEST_FILE).is_file()


def read_scores(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of the scored checkpoints, without one that was cut short."""
    path = run_dir / "evaluation" / SCORES_FILE
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def is_finished(run_dir: Path) -> bool:
    """Return whether the training of a run has finished."""
    now = time.time()
    return outcome(read_evidence(run_dir, read_lease(run_dir, now), now)).state == "finished"


def watch(run_dir: Path, task_argv: Sequence[str], every_seconds: float, is_once: bool) -> int:
    """Score checkpoints until the run has finished; returns the exit code: 1 if one failed.

    is_once: score those that exist, and end. Raises InputError if there is no such run then.
    """
    watcher = Watcher(run_dir, task_argv)
    spec_file = run_dir / SPEC_FILE
    while True:
        # Asked first: a checkpoint that is saved after it is seen in the next turn.
        is_last_turn = is_once or is_finished(run_dir)
        if spec_file.is_file():
            watcher.score_new_ones(load_spec(spec_file, [f"run_dir={run_dir}"]))
        elif is_once:
            raise InputError(
                f"{run_dir}: there is no {SPEC_FILE}, so no run was started here.\n"
                "  name the run's directory, or leave out --once to wait for it."
            )
        if is_last_turn:
            print(f"{run_dir}: {len(watcher.scored())} checkpoints are scored", flush=True)
            return 1 if watcher.failed else 0
        time.sleep(every_seconds)


def _run_to_end(command: Sequence[str]) -> int:
    """Run a command in a session of its own, which ends if this process is killed."""
    task = GuardedProcess(command)
    try:
        return task.wait()
    except BaseException:
        task.process.terminate()
        task.process.wait()
        raise
