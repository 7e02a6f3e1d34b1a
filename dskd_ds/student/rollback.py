"""Goes back to an earlier checkpoint if the present weights only lead to skipped steps."""

from __future__ import annotations

import sys

from tqdm import tqdm

from dskd_ds.errors import DskdError, ExitCode, OtherRankError
from dskd_ds.student.training import Training


def roll_back(training: Training) -> None:
    """Load weights and optimiser from before the present weights were made. A collective call.

    Only the weights go back, and those of losses below the head that follow their gradients: the
    steps and data go on, because the same data could lead to the same end. Nothing is saved before
    an error, and checkpoints of the weights that are given up are renamed, so the sound one stays
    the newest.
    Raises DskdError on rank 0, and OtherRankError on the others, if there is no earlier checkpoint
    or if rollbacks did not help.
    """
    skips = training.skips
    num_skipped, weights_step, loaded_step = skips.in_a_row, skips.weights_step, 0
    if not skips.has_rolled_back_in_vain:
        loaded_step = training.restore_weights(before=weights_step)
    if loaded_step == 0:
        if training.rank > 0:
            raise OtherRankError(ExitCode.FAILED)
        raise DskdError(end_message(training))
    skips.note_rollback(loaded_step)
    training.heldout_score = None  # of the weights that were given up
    if training.rank == 0:
        tqdm.write(
            f"{num_skipped} steps in a row were skipped with the weights of step {weights_step}:"
            f" all ranks go back to the weights of step {loaded_step}, and on to the data of step"
            f" {training.num_done + 1}.",
            file=sys.stderr,
        )


def end_message(training: Training) -> str:
    """Return why the run ends, and what to look at."""
    skips = training.skips
    reason = f"there is no checkpoint from before step {skips.weights_step} to go back to"
    if skips.has_rolled_back_in_vain:
        reason = f"{skips.rollbacks_in_a_row} rollbacks to earlier checkpoints did not help"
    counts = ", ".join(f"{count} for {cause}" for cause, count in skips.counts.items() if count)
    return (
        f"{training.spec.run_dir}: step {training.num_done} is the last of {skips.in_a_row} skipped"
        f" steps in a row, and {reason}.\n"
        f"  skipped so far: {counts}. Look at loss and grad_norm in metrics.jsonl before step"
        f" {skips.weights_step}.\n"
        "  lower [optimizer] lr, raise warmup_fraction, set max_grad_norm; check the data of these"
        " steps and the number format of [student] dtype.\n"
        "  to skip any number of steps, set [train] rollback_after_skips = 0."
    )
