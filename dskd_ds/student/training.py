"""What one rank's training consists of, how far it is, and when it saves."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from dskd_ds.errors import SaveError
from dskd_ds.observe.best_checkpoint import HeldoutScore
from dskd_ds.runtime.stop import StopWish
from dskd_ds.spec import RunSpec
from dskd_ds.student.checkpoint.store import Checkpoints, Progress
from dskd_ds.student.checkpoint.unchanged import UnchangedWeights
from dskd_ds.student.collectives import run_on_rank_0
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.heldout_loss import HeldoutLoss
from dskd_ds.student.on_policy import OnPolicyBlocks
from dskd_ds.student.phases import MEASURING, SAVING, Phases
from dskd_ds.student.run_lock import RunLock
from dskd_ds.student.same_teachers import TeacherComparison
from dskd_ds.student.skips import Skips
from dskd_ds.student.step_health import StepHealth
from dskd_ds.student.verdict import StepSource


@dataclass
class Training:
    """One rank's training: what its steps need, and how far it is."""

    spec: RunSpec
    rank: int
    engine: Engine
    steps: StepSource
    blocks: OnPolicyBlocks
    num_done: int
    """Optimiser steps done, from the start of the run."""
    num_steps: int
    """Optimiser steps of the whole run."""
    tokens: int
    """Tokens that all ranks have read, from the start of the run."""
    skips: Skips
    """Which steps were skipped, and what decides whether the next one is."""
    is_stop_wanted: StopWish = field(default_factory=StopWish)
    """Whether a signal has asked this rank to stop."""
    saved_at: float = field(default_factory=time.monotonic)
    """When this rank last tried to save, or the start of training."""
    teachers: TeacherComparison = field(default_factory=TeacherComparison)
    """Whether all ranks learn from the same teachers."""
    phases: Phases = field(default_factory=Phases)
    """What this rank does now, for the watchdog."""
    unchanged_weights: UnchangedWeights | None = None
    """Counts lost updates. None if the optimiser works in float32."""
    health: StepHealth = field(default_factory=StepHealth)
    """Measures the steps and compares the ranks."""
    save_seconds: float = 0.0
    """How long the last save took."""
    run_lock: RunLock | None = None
    """The lock on the run directory, which rank 0 holds. None in benchmarks, which save nothing."""
    checkpoints: Checkpoints | None = None
    """The run's checkpoints. None in benchmarks."""
    heldout: HeldoutLoss | None = None
    """Measures the loss on held-out text. None if the spec does not ask for it."""
    heldout_score: HeldoutScore | None = None
    """The loss of the present weights on held-out text; None if it was not measured."""
    title: str = "training"
    """What the progress bar says."""
    whole_run_dir: Path | None = None
    """The run directory of which the spec's is a part; None if it is the spec's itself."""

    def save(self, in_background: bool = False) -> None:
        """Save a checkpoint of the present step, unless there is one. A collective call.

        in_background: only copy what is saved; `complete_save_or_warn` makes it complete. A save
        before this one is completed first. While steps are skipped nothing is deleted for it: its
        weights may be given up, and the rollback then needs an older checkpoint.
        Raises SaveError on all ranks if one of them cannot write.
        """
        self.saved_at = time.monotonic()
        self.complete_save_or_warn()
        self.phases.enter(SAVING, self.num_done)
        if self.run_lock:
            run_on_rank_0(self.run_lock.check)
        if self.checkpoints:
            progress = Progress(self.num_done, self.tokens)
            deletes_old = not self.skips.in_a_row
            self.checkpoints.save(progress, in_background, self.heldout_score, deletes_old)
        self.save_seconds = time.monotonic() - self.saved_at

    def all_reduce_heldout_loss(self, is_save_due: bool) -> dict[str, float]:
        """Measure the loss on held-out text if it is due after this step. A collective call.

        Returns the part of the step's record about it; empty if it is not due.
        """
        self.heldout_score = None
        every = self.spec.monitor.heldout_every_steps
        is_due_by_steps = every > 0 and self.num_done % every == 0
        is_due_by_save = self.spec.checkpoint.keep_best and is_save_due
        is_last = self.num_done == self.num_steps
        if self.heldout is None or not (is_due_by_steps or is_due_by_save or is_last):
            return {}
        started = time.monotonic()
        self.phases.enter(MEASURING, self.num_done)
        self.heldout_score = self.heldout.all_reduce_score()
        return {
            "heldout_loss": self.heldout_score.loss,
            "heldout_seconds": time.monotonic() - started,
        }

    def save_record(self) -> dict[str, float]:
        """Return the part of a step's record about saves, by this rank's clock."""
        age = time.monotonic() - self.saved_at
        return {"save_seconds": self.save_seconds, "save_age_seconds": age}

    def restore_weights(self, before: int) -> int:
        """Load weights and moments of the newest checkpoint of fewer steps. A collective call.

        Returns the number of its steps; 0 if there is none.
        """
        self.complete_save_or_warn()
        restored = self.checkpoints.restore_weights(before) if self.checkpoints else None
        return restored.step if restored else 0

    def save_or_warn(self, in_background: bool = False) -> None:
        """Save as `save` does, but only print a warning if that fails. A collective call."""
        try:
            self.save(in_background)
        except SaveError as error:
            warn(error)

    def is_save_written(self) -> bool:
        """Whether this rank's part of a save in the background is written."""
        return self.checkpoints is not None and self.checkpoints.is_save_written()

    def complete_save_or_warn(self) -> None:
        """Wait for a save in the background, if there is one, and complete it. A collective call.

        Only prints a warning if it cannot be written.
        """
        if self.checkpoints is None or not self.checkpoints.is_saving:
            return
        self.phases.enter(SAVING, self.num_done)
        if self.run_lock:
            run_on_rank_0(self.run_lock.check)
        try:
            self.checkpoints.complete_save()
        except SaveError as error:
            warn(error)

    def is_save_due_by_clock(self) -> bool:
        """Whether rank 0 finds that `[checkpoint] every_minutes` have passed; false elsewhere."""
        every_seconds = self.spec.checkpoint.every_minutes * 60
        is_over = time.monotonic() - self.saved_at >= every_seconds
        return self.rank == 0 and every_seconds > 0 and is_over

    def is_save_due_by_steps(self) -> bool:
        """Whether the present step is a multiple of `[checkpoint] every_steps`."""
        every = self.spec.checkpoint.every_steps
        return every > 0 and self.num_done % every == 0


def warn(error: SaveError) -> None:
    """Print why a checkpoint was not saved; only the ranks that met the reason have a message."""
    if str(error):
        tqdm.write(f"warning: {error}", file=sys.stderr)
