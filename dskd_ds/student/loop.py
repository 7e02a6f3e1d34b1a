"""Trains on one rank: sets up what training needs, then runs one step after the other."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deepspeed
from tqdm import tqdm

from dskd_ds.data.batches import num_steps, open_source
from dskd_ds.errors import ExitCode, SaveError
from dskd_ds.link import StudentSide, open_student_side
from dskd_ds.models.named import RunModels
from dskd_ds.observe.metrics import MetricsWriter
from dskd_ds.runtime.devices import give_back_memory, local_device
from dskd_ds.runtime.topology import Role
from dskd_ds.runtime.world import open_world
from dskd_ds.senses.choose.open import open_retriever
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.spec import SPEC_FILE, RunSpec, write_spec
from dskd_ds.student import checkpoint
from dskd_ds.student.alignment import AlignmentTest
from dskd_ds.student.collectives import run_on_rank_0
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.depth import student_init
from dskd_ds.student.engine import make_engine, set_lr, take_step
from dskd_ds.student.export import gather_and_export
from dskd_ds.student.feed import Feed, StepInput
from dskd_ds.student.on_policy import OnPolicyBlocks
from dskd_ds.student.record import all_reduce_record, tokens_per_step
from dskd_ds.student.requests import RequestBuilder
from dskd_ds.student.run_lock import RunLock
from dskd_ds.student.schedule import lr_at
from dskd_ds.student.stop import StopWish
from dskd_ds.student.verdict import (
    Counts,
    StepSource,
    Verdict,
    all_reduce_verdict,
    prepare,
    raise_end,
)


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
    is_stop_wanted: StopWish = field(default_factory=StopWish)
    """Whether a signal has asked this rank to stop."""
    saved_at: float = field(default_factory=time.monotonic)
    """When this rank last tried to save, or the start of training."""
    run_lock: RunLock | None = None
    """The lock on the run directory, which rank 0 holds. None in benchmarks, which save nothing."""

    def save(self) -> None:
        """Save a checkpoint of the present step, unless there is one. A collective call.

        Raises SaveError on all ranks if one of them cannot write.
        """
        self.saved_at = time.monotonic()
        if self.run_lock:
            run_on_rank_0(self.run_lock.check)
        checkpoint.save(self.engine, self.spec, self.num_done, self.tokens)

    def save_or_warn(self) -> None:
        """Save as `save` does, but only print a warning if that fails. A collective call."""
        try:
            self.save()
        except SaveError as error:
            if str(error):
                tqdm.write(f"warning: {error}", file=sys.stderr)

    def is_save_due_by_clock(self) -> bool:
        """Whether rank 0 finds that `[checkpoint] every_minutes` have passed; false elsewhere."""
        every_seconds = self.spec.checkpoint.every_minutes * 60
        is_over = time.monotonic() - self.saved_at >= every_seconds
        return self.rank == 0 and every_seconds > 0 and is_over

    def is_save_due_by_steps(self) -> bool:
        """Whether the present step is a multiple of `[checkpoint] every_steps`."""
        every = self.spec.checkpoint.every_steps
        return every > 0 and self.num_done % every == 0


def train(spec: RunSpec, models: RunModels, role: Role) -> None:
    """Train as one rank of the students' world. Raises DskdError for what a user should read."""
    open_world()
    with ExitStack() as cleanup:
        run_lock = acquire_run_lock(spec, role, cleanup)
        record_spec(spec)
        # Before anything that takes long: teachers only wait for a student that listens.
        link = open_link(spec, models, role)
        cleanup.callback(link.close)
        init = student_init(spec, models)
        retriever = open_retriever(spec, role, cleanup) if spec.uses_senses else None
        source = open_source(
            spec.data,
            models.teacher.tokenizer,
            seed=spec.seed,
            step_blocks=spec.train.global_batch_blocks,
        )
        engine = make_engine(spec, models, init, retriever.dictionary if retriever else None)
        num_done, tokens = checkpoint.resume(engine, spec)
        give_back_memory()
        total_steps = num_steps(spec, source)
        blocks = OnPolicyBlocks(spec, models.teacher.tokenizer, role.rank, source, engine)
        requests, self_test = open_requests(spec, models, retriever, engine, role)
        feed = Feed(
            spec,
            rank=role.rank,
            source=blocks,
            link=link,
            requests=requests,
            self_test=self_test,
            device=local_device(),
            steps=range(num_done, total_steps),
        )
        # Registered last, so called first: the preparing thread stops before the index closes.
        cleanup.callback(feed.close)
        training = Training(
            spec=spec,
            rank=role.rank,
            engine=engine,
            steps=feed,
            blocks=blocks,
            num_done=num_done,
            num_steps=total_steps,
            tokens=tokens,
            run_lock=run_lock,
        )
        run_steps(training)
        if total_steps > num_done:
            training.save()
        gather_and_export(engine, spec, models)
    deepspeed.comm.destroy_process_group()


def acquire_run_lock(spec: RunSpec, role: Role, cleanup: ExitStack) -> RunLock:
    """Lock the run directory before anything is written into it. A collective call.

    Raises InputError on rank 0 and OtherRankError on the others if another launch has the lock.
    """
    run_lock = RunLock(Path(spec.run_dir))
    run_on_rank_0(run_lock.acquire)
    if role.rank == 0:
        cleanup.callback(run_lock.release)
    return run_lock


def open_link(spec: RunSpec, models: RunModels, role: Role) -> StudentSide:
    """Listen for teachers of the expected sizes."""
    return open_student_side(
        run_dir=Path(spec.run_dir),
        rank=role.rank,
        spec=spec.link,
        vocab_size=models.shared_vocab_size,
        hidden_size=models.teacher.hidden_size,
        spans_nodes=role.launch.spans_nodes,
    )


def open_requests(
    spec: RunSpec,
    models: RunModels,
    retriever: SenseRetriever | None,
    engine: Engine,
    role: Role,
) -> tuple[RequestBuilder, AlignmentTest]:
    """Return what turns batches into requests, and what tests the first reply."""
    vocab_size, hidden_size = models.shared_vocab_size, models.teacher.hidden_size
    requests = RequestBuilder(spec, retriever, vocab_size, hidden_size)
    self_test = AlignmentTest(
        requests,
        teacher_head=engine.module.objective.frozen_head(),
        on_policy_fraction=spec.train.on_policy_fraction,
        is_printing=role.rank == 0,
    )
    return requests, self_test


def run_steps(training: Training) -> None:
    """Run the remaining steps, with metrics and checkpoints. Saves before it raises an error."""
    spec, is_first_rank = training.spec, training.rank == 0
    training.is_stop_wanted.listen()
    with ExitStack() as cleanup:
        metrics: MetricsWriter | None = None
        if is_first_rank:
            metrics = MetricsWriter(spec, training.num_done, training.num_steps)
            cleanup.callback(metrics.close)
        bar = tqdm(
            total=training.num_steps,
            initial=training.num_done,
            desc="training",
            unit="step",
            disable=not is_first_rank,
        )
        cleanup.enter_context(bar)
        while training.num_done < training.num_steps:
            started = time.monotonic()
            step_input, verdict = next_step(training)
            record = run_step(training, step_input, verdict.counts, started)
            if metrics:
                metrics.write(record)
            show_progress(bar, record)
            is_last = training.num_done == training.num_steps  # `train` saves the last step
            is_save_due = verdict.is_save_due or training.is_save_due_by_steps()
            if is_save_due and not is_last:
                training.save_or_warn()


def next_step(training: Training) -> tuple[StepInput, Verdict]:
    """Return the next step's input and the ranks' verdict on it. A collective call.

    If a rank has met an error or is to stop, all ranks save and raise (see `raise_end`).
    """
    prepared = prepare(training.steps, training.is_stop_wanted)
    verdict = all_reduce_verdict(
        prepared,
        is_stop_wanted=training.is_stop_wanted(),
        is_save_due=training.is_save_due_by_clock(),
    )
    if verdict.ends_run:
        save_at_end(training, verdict)
        raise_end(prepared, verdict, training.rank)
    assert prepared.step_input is not None
    return prepared.step_input, verdict


def save_at_end(training: Training, verdict: Verdict) -> None:
    """Save before the run ends early. A collective call.

    Raises SaveError if that fails, but only prints it after an error: that is the one to raise.
    """
    if verdict.exit_code is ExitCode.DONE:
        training.save()
    else:
        training.save_or_warn()


def run_step(
    training: Training, step_input: StepInput, counts: Counts, started: float
) -> dict[str, float]:
    """Run one optimiser step and return its record. A collective call.

    started: when this rank began to wait for the step's input.
    """
    spec, engine, step = training.spec, training.engine, training.num_done
    set_lr(engine, lr_at(spec, step, training.num_steps))
    sums = take_step(spec, engine, step_input, counts)
    training.num_done += 1
    training.tokens += tokens_per_step(spec)
    seconds = time.monotonic() - started
    record = all_reduce_record(
        spec,
        engine,
        local_sums=sums,
        step_input=step_input,
        counts=counts,
        seconds=seconds,
    )
    record |= training.blocks.all_reduce_report(step, counts.tokens)
    return {"step": training.num_done, "tokens": training.tokens, **record}


def show_progress(bar: Any, record: dict[str, float]) -> None:
    """Move the progress bar on by one step."""
    bar.set_postfix(
        loss=f"{record['loss']:.3f}",
        kd=f"{record['loss_kd']:.3f}",
        wait=f"{record['teacher_wait_seconds']:.1f}s",
    )
    bar.update()


def record_spec(spec: RunSpec) -> None:
    """Write the resolved spec into the run directory. A collective call.

    Raises InputError if the run directory holds checkpoints of another run.
    """
    run_on_rank_0(checkpoint.refuse_another_run, spec)
    run_on_rank_0(write_spec, spec, Path(spec.run_dir) / SPEC_FILE)
