"""Trains with cross-entropy only, with and without saves, and measures what a save costs.

    python -m dskd_ds.bench.save_loop --spec FILE.toml --output FILE.json [--set KEY=VALUE ...]

One rank. The variants take turns in the same process, on the same engine: no save, a synchronous
save, a save in the background. Each takes the same number of steps, and saves after its first one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed

from dskd_ds.bench.bare_loop import load_model
from dskd_ds.bench.ce_loop import CrossEntropyStudent, TextFeed
from dskd_ds.bench.one_rank import measure_and_write
from dskd_ds.data.source import open_source
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.launchers import read_launch
from dskd_ds.runtime.topology import assign
from dskd_ds.spec import RunSpec
from dskd_ds.student.checkpoint.store import Checkpoints
from dskd_ds.student.counts import Counts
from dskd_ds.student.ds_config import deepspeed_config
from dskd_ds.student.engine import take_step
from dskd_ds.student.on_policy import OnPolicyBlocks
from dskd_ds.student.run_state import EngineState
from dskd_ds.student.skips import Skips
from dskd_ds.student.training import Training

VARIANTS = ("none", "synchronous", "asynchronous")
MOST_STEPS = 200


@dataclass(frozen=True)
class Measured:
    """What a variant took in one round."""

    seconds: float
    """All its steps, until its checkpoint is complete."""
    blocked_seconds: float
    """The part of it that the training thread spent in saves."""


def measure(training: Training, rounds: int) -> dict[str, Any]:
    """Return the measured rounds of each variant, and the number of steps of each."""
    step_seconds = min(timed(partial(step, training)) for _ in range(3))
    save_seconds = timed(training.save)  # also fills Adam's buffers, the disk's cache, ...
    # Saves in the background compete with training, so leave them three times as long.
    num_steps = min(math.ceil(3 * save_seconds / step_seconds) + 2, MOST_STEPS)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            found[variant].append(asdict(run(training, variant, num_steps)))
    return {
        "rounds": found,
        "num_steps": num_steps,
        "step_seconds": step_seconds,
        "checkpoint_bytes": checkpoint_bytes(training.spec),
        "threads": training.spec.topology.threads_per_rank,
    }


def run(training: Training, variant: str, num_steps: int) -> Measured:
    """Take some steps, with one save after the first one."""
    started, blocked = time.perf_counter(), 0.0
    for index in range(num_steps):
        step(training)
        if index == 0 and variant != "none":
            blocked += timed(partial(training.save, in_background=variant == "asynchronous"))
        if training.is_save_written():
            blocked += timed(training.complete_save_or_warn)
    blocked += timed(training.complete_save_or_warn)
    return Measured(time.perf_counter() - started, blocked)


def step(training: Training) -> None:
    """Take one optimiser step."""
    tokens, senses = training.steps.counts()
    given = training.steps.next(lambda: False)
    assert given is not None
    take_step(training.spec, training.engine, given, Counts(tokens, senses))
    training.num_done += 1


def timed(work: Callable[[], object]) -> float:
    """Do the work and return the seconds that it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def checkpoint_bytes(spec: RunSpec) -> int:
    """Return the size of the newest checkpoint."""
    newest = max(Path(spec.run_dir, "checkpoints").glob("step-*"))
    return sum(path.stat().st_size for path in newest.iterdir())


def open_training(spec: RunSpec) -> Training:
    """Return a training whose student learns by cross-entropy, with checkpoints."""
    role = assign(read_launch(os.environ), spec.topology)
    model = CrossEntropyStudent(load_model(spec, use_deepspeed=True))
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=list(model.parameters()), config=deepspeed_config(spec)
    )
    tokenizer = NamedModel.of_teacher(spec.teacher).tokenizer
    step_blocks = spec.train.global_batch_blocks
    source = open_source(spec.data, tokenizer, seed=spec.seed, step_blocks=step_blocks)
    hidden_size = model.language_model.config.get_text_config().hidden_size
    return Training(
        spec=spec,
        rank=role.rank,
        engine=engine,
        steps=TextFeed(spec, role.rank, source, hidden_size),
        blocks=OnPolicyBlocks(spec, tokenizer, role.rank, source, engine),
        num_done=0,
        num_steps=MOST_STEPS,
        tokens=0,
        skips=Skips(spec.train),
        checkpoints=Checkpoints(engine, spec, "bench", {"engine": EngineState(engine)}),
    )


def measure_saves(spec: RunSpec, rounds: int) -> dict[str, Any]:
    """Return what `measure` does, of a training that is opened here."""
    return measure(open_training(spec), rounds)


if __name__ == "__main__":
    measure_and_write(__doc__, measure_saves)
