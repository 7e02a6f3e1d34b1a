"""The training loop: one optimiser step after the other, with metrics and checkpoints."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from tqdm import tqdm

from dskd_ds.errors import DskdError, ExitCode
from dskd_ds.observe.metrics import MetricsWriter
from dskd_ds.student.counts import Counts
from dskd_ds.student.engine import set_lr, take_step
from dskd_ds.student.phases import PLANNING, VERDICT
from dskd_ds.student.record import all_reduce_record
from dskd_ds.student.replies.feed import StepInput
from dskd_ds.student.rollback import roll_back
from dskd_ds.student.schedule import lr_at
from dskd_ds.student.skips import StepFacts
from dskd_ds.student.training import Training
from dskd_ds.student.verdict import Verdict, all_reduce_verdict, prepare, raise_end


def run_steps(training: Training) -> None:
    """Run the remaining steps, with metrics and checkpoints. Saves before it raises an error."""
    spec, is_first_rank = training.spec, training.rank == 0
    training.is_stop_wanted.listen()
    training.skips.note_start(training.num_done)
    with ExitStack() as cleanup:
        metrics: MetricsWriter | None = None
        if is_first_rank:
            metrics = MetricsWriter(
                spec, training.num_done, training.num_steps, training.whole_run_dir
            )
            cleanup.callback(metrics.close)
        bar = tqdm(
            total=training.num_steps,
            initial=training.num_done,
            desc=training.title,
            unit="step",
            disable=not is_first_rank,
        )
        cleanup.enter_context(bar)
        while training.num_done < training.num_steps:
            training.health.begin_step()
            step_input, verdict = next_step(training)
            record = run_step(training, step_input, verdict.counts)
            is_save_due = verdict.is_save_due or training.is_save_due_by_steps()
            record |= training.all_reduce_heldout_loss(is_save_due)
            report_straggler(training)
            if metrics:
                metrics.write(record)
            show_progress(bar, record)
            is_last = training.num_done == training.num_steps  # `train` saves the last step
            # Weights that only lead to skipped steps must not push sound checkpoints out.
            if is_save_due and not is_last and not training.skips.in_a_row:
                training.save_or_warn(in_background=spec.checkpoint.asynchronous)
            if training.skips.is_rollback_due:
                training.phases.enter("rollback")
                roll_back(training)


def next_step(training: Training) -> tuple[StepInput, Verdict]:
    """Return the next step's input and the ranks' verdict on it. A collective call.

    If a rank has met an error or is to stop, or if two ranks learn from different teachers, all
    ranks save and raise (see `raise_end`).
    """
    training.phases.enter(PLANNING, training.num_done)
    prepared = prepare(training.steps, training.is_stop_wanted, training.phases.enter)
    training.phases.enter(VERDICT)
    verdict = all_reduce_verdict(
        prepared,
        is_stop_wanted=training.is_stop_wanted(),
        is_save_due=training.is_save_due_by_clock(),
        is_save_written=training.is_save_written(),
        is_teacher_new=training.teachers.is_due(training.steps.fingerprints()),
    )
    if verdict.is_save_written:
        training.complete_save_or_warn()
    if verdict.ends_run:
        save_at_end(training, verdict)
        raise_end(prepared, verdict, training.rank)
    if verdict.is_teacher_new:
        compare_teachers(training)
    assert prepared.step_input is not None
    return prepared.step_input, verdict


def compare_teachers(training: Training) -> None:
    """Check that all ranks learn from the same teachers. A collective call.

    If they do not, all ranks save and raise: the steps before this one had no such teacher. Before
    the first step nothing is saved: a checkpoint would hold settings fast that are to be corrected.
    """
    try:
        training.teachers.compare(training.steps.fingerprints())
    except DskdError:
        if training.num_done:
            training.save_or_warn()
        raise


def save_at_end(training: Training, verdict: Verdict) -> None:
    """Save before the run ends early. A collective call.

    Raises SaveError if that fails, but only prints it after an error: that is the one to raise.
    """
    if verdict.exit_code is ExitCode.DONE:
        training.save()
    else:
        training.save_or_warn()


def run_step(training: Training, step_input: StepInput, counts: Counts) -> dict[str, float]:
    """Run one optimiser step and return its record. A collective call."""
    spec, engine, step = training.spec, training.engine, training.num_done
    set_lr(engine, lr_at(spec, step, training.num_steps))
    result = take_step(
        spec,
        engine,
        step_input,
        counts,
        loss_limit=training.skips.loss_limit(),
        share_done=step / training.num_steps,
        enter_phase=training.phases.enter,
    )
    training.num_done += 1
    note_step(training, result.facts)
    own_step = training.health.end_step(step_input)
    training.phases.note_step(own_step.seconds)
    training.phases.enter("metrics", training.num_done)
    record = all_reduce_record(
        engine,
        local_sums=result.sums,
        step_input=step_input,
        counts=counts,
        health=training.health,
        own_step=own_step,
    )
    training.tokens += int(record["step_tokens"])
    record |= training.save_record()
    record |= training.blocks.all_reduce_report(step, counts.tokens)
    record |= training.skips.record()
    if training.unchanged_weights:
        record |= training.unchanged_weights.all_reduce_share()
    return {"step": training.num_done, "tokens": training.tokens, **record}


def note_step(training: Training, facts: StepFacts) -> None:
    """Count the step if it was skipped; rank 0 prints why."""
    training.skips.note(training.num_done, facts)
    if facts.cause is not None and training.rank == 0:
        tqdm.write(
            f"step {training.num_done} was skipped by all ranks: {facts.describe()}.",
            file=sys.stderr,
        )


def report_straggler(training: Training) -> None:
    """Print on rank 0, once per rank, that a rank computes much longer than the others."""
    slow = training.health.stragglers.new_straggler()
    if slow and training.rank == 0:
        tqdm.write(
            f"student {slow.rank} computes {slow.factor:.1f} times as long per step as the others,"
            " which wait for it.\n"
            "  look at its node (dskd status names it): other processes, heat, a slow disk.",
            file=sys.stderr,
        )


def show_progress(bar: Any, record: dict[str, float]) -> None:
    """Move the progress bar on by one step."""
    bar.set_postfix(
        loss=f"{record['loss']:.3f}",
        kd=f"{record['loss_kd']:.3f}",
        wait=f"{record['teacher_wait_seconds']:.1f}s",
    )
    bar.update()
