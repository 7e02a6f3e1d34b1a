"""Training, read from top to bottom: set up what a rank needs, then step by step until done."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.batches import num_steps, open_source
from dskd_ds.errors import DskdError, ExitCode, OtherRankError
from dskd_ds.link import StudentLink
from dskd_ds.losses.sense import COVERAGE
from dskd_ds.losses.token import AGREEMENT
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.objective.fused import STATS, Scales
from dskd_ds.observe.metrics import MetricsWriter
from dskd_ds.runtime.devices import give_back_memory, local_device
from dskd_ds.runtime.topology import Role
from dskd_ds.runtime.world import open_world
from dskd_ds.senses.choose.open import open_retriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import SPEC_FILE, RunSpec, write_spec
from dskd_ds.student import checkpoint
from dskd_ds.student.alignment import AlignmentTest
from dskd_ds.student.depth import student_init
from dskd_ds.student.ds_config import deepspeed_config
from dskd_ds.student.export import export_engine
from dskd_ds.student.feed import Feed, StepInput
from dskd_ds.student.model import load_student
from dskd_ds.student.on_policy import OnPolicyBlocks
from dskd_ds.student.requests import RequestBuilder


@dataclass(frozen=True)
class Counts:
    """What the sums of a step are divided by: counts over all ranks and accumulation steps."""

    tokens: int
    senses: int


def train(spec: RunSpec, models: RunModels, role: Role) -> None:
    """Train as one rank of the students' world. Raises DskdError for what a user should read."""
    open_world()
    with ExitStack() as cleanup:
        init = student_init(spec, models)
        record_spec(spec, role)
        hidden_size, vocab_size = models.teacher.hidden_size, models.shared_vocab_size
        link = StudentLink(
            Path(spec.run_dir),
            role.rank,
            spec.link,
            vocab_size,
            hidden_size,
            role.launch.spans_nodes,
        )
        cleanup.callback(link.close)
        retriever = open_retriever(spec, role, cleanup) if spec.uses_senses else None
        source = open_source(
            spec.data,
            models.teacher.tokenizer,
            seed=spec.seed,
            step_blocks=spec.train.global_batch_blocks,
        )
        engine = make_engine(spec, models, init, retriever.dictionary if retriever else None)
        first_step, tokens = checkpoint.resume(engine, spec)
        give_back_memory()
        last_step = num_steps(spec, source)
        blocks = OnPolicyBlocks(spec, models.teacher.tokenizer, role.rank, source, engine)
        requests = RequestBuilder(spec, retriever, vocab_size, hidden_size)
        feed = Feed(
            spec,
            rank=role.rank,
            source=blocks,
            link=link,
            requests=requests,
            self_test=AlignmentTest(
                requests,
                engine.module.objective.frozen_head(),
                spec.train.on_policy_fraction,
                is_printing=role.rank == 0,
            ),
            device=local_device(),
            steps=range(first_step, last_step),
        )
        cleanup.callback(feed.close)
        run_steps(spec, role, engine, feed, blocks, first_step, last_step, tokens)
        if last_step > first_step:
            checkpoint.save(
                engine, spec, last_step, tokens + tokens_per_step(spec) * (last_step - first_step)
            )
        export_engine(engine, spec, models)
    deepspeed.comm.destroy_process_group()


def run_steps(
    spec: RunSpec,
    role: Role,
    engine: Any,
    feed: Feed,
    blocks: OnPolicyBlocks,
    first_step: int,
    last_step: int,
    tokens: int,
) -> None:
    """The optimiser steps, metrics and checkpoints. Saves before it raises NoTeacherError."""
    with ExitStack() as cleanup:
        metrics = MetricsWriter(spec, first_step, last_step) if role.rank == 0 else None
        if metrics:
            cleanup.callback(metrics.close)
        bar = cleanup.enter_context(
            tqdm(
                total=last_step,
                initial=first_step,
                desc="training",
                unit="step",
                disable=role.rank > 0,
            )
        )
        for step in range(first_step, last_step):
            started = time.monotonic()
            counts = global_counts(feed)
            try:
                step_input = agree(feed)
            except DskdError:
                checkpoint.save(engine, spec, step, tokens)
                raise
            set_lr(engine, lr_at(spec, step, last_step))
            sums = optimise(spec, engine, step_input, counts)
            tokens += tokens_per_step(spec)
            record = step_record(spec, engine, sums, step_input, counts, time.monotonic() - started)
            record |= blocks.report(step, counts.tokens)
            if metrics:
                metrics.write({"step": step + 1, "tokens": tokens, **record})
            bar.set_postfix(
                loss=f"{record['loss']:.3f}",
                kd=f"{record['loss_kd']:.3f}",
                wait=f"{record['teacher_wait_seconds']:.1f}s",
            )
            bar.update()
            if (
                spec.checkpoint.every_steps
                and (step + 1) % spec.checkpoint.every_steps == 0
                and step + 1 < last_step
            ):
                checkpoint.save(engine, spec, step + 1, tokens)


def optimise(spec: RunSpec, engine: Any, step_input: StepInput, counts: Counts) -> Tensor:
    """Forward, backward and update for one step of this rank. Returns its sums, in the order of STATS."""
    # DeepSpeed divides by accumulation steps and averages over ranks; the sums are to be divided by global counts instead.
    # In fp16 it also scales the loss; the objective forms gradients in forward, so that scale must be in there, and not come again after.
    loss_scale = float(getattr(engine.optimizer, "loss_scale", 1.0))
    divided_by = spec.num_accumulation_steps * spec.topology.num_students * loss_scale
    scales = Scales(
        token=divided_by / max(counts.tokens, 1), sense=divided_by / max(counts.senses, 1)
    )
    sums = torch.zeros(len(STATS), dtype=torch.float64, device=engine.device)
    for batch in step_input.micro_batches:
        loss, stats = engine(
            batch.input_ids, batch.position_ids, batch.teacher, batch.senses, scales
        )
        engine.backward(loss / loss_scale)
        sums += stats
        if not hasattr(engine.optimizer, "_global_grad_norm"):
            keep_grad_norm(engine)
        engine.step()
    return sums


def keep_grad_norm(engine: Any) -> None:
    """At ZeRO stage 0 in float32 DeepSpeed clips by the gradients' norm but keeps it to itself; what counts is the last micro-batch's."""
    if engine.is_gradient_accumulation_boundary():
        gradients = [
            parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None
        ]
        engine._global_grad_norm = torch.nn.utils.get_total_norm(gradients)


def global_counts(feed: Feed) -> Counts:
    """Supervised and sense positions of the next step over all ranks."""
    counts = torch.tensor(feed.counts(), dtype=torch.int64, device=local_device())
    deepspeed.comm.all_reduce(counts)
    return Counts(*counts.tolist())


def agree(feed: Feed) -> StepInput:
    """The step's input, on all ranks or on none: if one rank's teacher is gone, every rank raises before it computes."""
    failure: DskdError | None = None
    step_input: StepInput | None = None
    try:
        step_input = feed.next()
    except DskdError as error:
        failure = error
    code = torch.tensor([int(failure.exit_code) if failure else 0], device=local_device())
    deepspeed.comm.all_reduce(code, op=deepspeed.comm.ReduceOp.MAX)
    if failure:
        raise failure
    if int(code):
        raise OtherRankError(ExitCode(int(code)))
    assert step_input is not None
    return step_input


def step_record(
    spec: RunSpec,
    engine: Any,
    local_sums: Tensor,
    step_input: StepInput,
    counts: Counts,
    seconds: float,
) -> dict[str, float]:
    """The step's line of metrics.jsonl, alike on all ranks: sums over ranks, the longest waits."""
    coverage = torch.stack([batch.senses.coverage for batch in step_input.micro_batches]).sum(dim=0)
    sums = torch.cat(
        [local_sums, local_sums.new_tensor([step_input.link_bytes]), coverage.to(local_sums)]
    )
    deepspeed.comm.all_reduce(sums)
    longest = local_sums.new_tensor(
        [seconds, step_input.teacher_wait_seconds, step_input.sense_wait_seconds]
    )
    deepspeed.comm.all_reduce(longest, op=deepspeed.comm.ReduceOp.MAX)
    total = dict(zip((*STATS, "link_bytes", *COVERAGE), sums.tolist(), strict=True))
    step_seconds, teacher_wait, sense_wait = longest.tolist()

    def mean(name: str, over: str) -> float:
        return total[name] / total[over] if total[over] else 0.0

    loss_ce, loss_kd = total["ce"] / max(counts.tokens, 1), total["kd"] / max(counts.tokens, 1)
    loss_sense = total["sense"] / max(counts.senses, 1)
    return {
        "loss": loss_ce
        + spec.loss.kd_weight * spec.loss.temperature**2 * loss_kd
        + spec.loss.sense_weight * loss_sense,
        "loss_ce": loss_ce,
        "loss_kd": loss_kd,
        "loss_sense": loss_sense,
        "grad_norm": float(engine.get_global_grad_norm() or 0.0),
        "lr": engine.get_lr()[0],
        **{name: mean(name, "agreement_positions") for name in AGREEMENT},
        "sense_positions": total["sense_positions"],
        "sense_pull_distance": mean("pull_distance", "num_pull"),
        "sense_push_active": mean("push_active", "num_push"),
        **{f"sense_with_{name}": mean(name, "sense_positions") for name in COVERAGE},
        "step_seconds": step_seconds,
        "teacher_wait_seconds": teacher_wait,
        "sense_wait_seconds": sense_wait,
        "tokens_per_second": tokens_per_step(spec) / step_seconds,
        "link_bytes": total["link_bytes"],
        "link_bytes_per_token": total["link_bytes"] / tokens_per_step(spec),
        "skipped": float(engine.skipped_steps),
    }


def tokens_per_step(spec: RunSpec) -> int:
    """Tokens that all ranks read in one step."""
    return spec.train.global_batch_blocks * spec.data.block_tokens


def lr_at(spec: RunSpec, step: int, total: int) -> float:
    """Linear warm-up, then a cosine to `min_lr_fraction` of the peak; `step` counts from 0."""
    warmup = round(spec.optimizer.warmup_fraction * total)
    if step < warmup:
        return spec.peak_lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    floor = spec.optimizer.min_lr_fraction
    return spec.peak_lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_lr(engine: Any, lr: float) -> None:
    """Set every parameter group's rate."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def record_spec(spec: RunSpec, role: Role) -> None:
    """Write the resolved spec into the run directory; refuse to go on with a run that was something else. Raises InputError."""
    checkpoint.refuse_another_run(spec)
    deepspeed.comm.barrier()
    if role.rank == 0:
        write_spec(spec, Path(spec.run_dir) / SPEC_FILE)


def make_engine(
    spec: RunSpec, models: RunModels, init: NamedModel, dictionary: SenseDictionary | None
) -> Any:
    """The DeepSpeed engine around the student and its objective."""
    config = deepspeed_config(spec)
    margin = spec.loss.margin
    if spec.loss.margin_unit == "median_antonym" and dictionary is not None:
        margin *= float(dictionary.facts["median_antonym_distance"])
    student = load_student(spec, models, init, config, margin)
    student.train()
    trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(model=student, model_parameters=trainable, config=config)
    return engine
