"""One rank of the test of skipped steps: a fault on rank 1, under one DeepSpeed configuration.

    torchrun --nproc_per_node 2 skip_worker.py --model FOLDER --out FOLDER

Each rank stores, for each configuration and each fault, what it found: the digest of the weights
before and after the faulty step, the step's facts, and the loss scale. `test_skips.py` compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.runtime.world import open_world
from dskd_ds.student.engine import StepResult, take_step
from dskd_ds.student.model import load_student
from dskd_ds.student.replies.feed import MicroBatch, StepInput
from dskd_ds.student.verdict import Counts
from tests.processes.parity_worker import LENGTH, block, sizes, spec_of

CONFIGS = (
    (0, "float32"),
    (0, "bfloat16"),
    (1, "float32"),
    (1, "bfloat16"),
    (2, "float32"),
    (2, "bfloat16"),
    (2, "float16"),
    (3, "float32"),
    (3, "bfloat16"),
    (3, "float16"),
    (2, "all bfloat16"),
    (3, "all bfloat16"),
)
"""ZeRO stage and number format; `all bfloat16`: the optimiser's state too."""
FAULTS = ("loss", "spike", "gradient")
"""NaN in the last hidden state, a loss above the limit, NaN in that state's gradient."""
FAULTY_RANK = 1
ACCUMULATION = 2


def make_engine(model: str, stage: int, dtype: str) -> Any:
    """Return an engine with new weights."""
    spec = spec_of(model, None, frozen="nothing", num_students=2)
    is_all_bfloat16 = dtype == "all bfloat16"
    dtype = dtype.removeprefix("all ")
    bf16 = {"enabled": dtype == "bfloat16"}
    if is_all_bfloat16:
        bf16 |= {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    config = {
        "train_batch_size": 2 * ACCUMULATION,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": ACCUMULATION,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage},
        "bf16": bf16,
        # Few positions, so the first loss scale must be small enough for their gradients.
        "fp16": {"enabled": dtype == "float16", "initial_scale_power": 4, "hysteresis": 1},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
    }
    student_spec = spec.student.model_copy(update={"dtype": dtype})
    init = NamedModel.of_student(model, student_spec)
    student = load_student(spec, RunModels.of(spec), init, config, 2.0)
    engine, *_ = deepspeed.initialize(
        model=student, model_parameters=list(student.parameters()), config=config
    )
    return engine


def step_input(engine: Any, first_block: int, model: str) -> StepInput:
    """Return this rank's micro-batches of a step."""
    spec = spec_of(model, None, frozen="nothing")
    batches = []
    for micro in range(ACCUMULATION):
        number = first_block + 2 * micro + engine.global_rank
        ids, teacher, senses = block(number, *sizes(spec))
        batches.append(MicroBatch(ids, torch.arange(LENGTH)[None], teacher, senses))
    return StepInput(batches, 0.0, 0.0, 0)


def break_one(values: torch.Tensor) -> torch.Tensor:
    """Return the values with one NaN."""
    broken = values.clone()
    broken.view(-1)[0] = math.nan
    return broken


@contextmanager
def broken(engine: Any, fault: str) -> Iterator[None]:
    """Break the last hidden state, or its gradient, of each micro-batch within the block."""

    def on_forward(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if fault == "loss":
            return break_one(output)
        output.register_hook(break_one)
        return output

    handle = engine.module.language_model.base_model.norm.register_forward_hook(on_forward)
    try:
        yield
    finally:
        handle.remove()


def take(engine: Any, model: str, first_block: int, fault: str = "") -> StepResult:
    """Take one step. fault: what rank 1 meets; a spike is met by all."""
    is_faulty = engine.global_rank == FAULTY_RANK
    spec = spec_of(model, None, frozen="nothing", num_students=2)
    given = step_input(engine, first_block, model)
    limit = 0.001 if fault == "spike" else math.inf
    counts = Counts(2 * ACCUMULATION * LENGTH, 4)
    train = spec.train.model_copy(update={"global_batch_blocks": 2 * ACCUMULATION})
    spec = spec.model_copy(update={"train": train})
    if is_faulty and fault in ("loss", "gradient"):
        with broken(engine, fault):
            return take_step(spec, engine, given, counts, loss_limit=limit)
    return take_step(spec, engine, given, counts, loss_limit=limit)


def digest(engine: Any) -> str:
    """Return the digest of all weights. A collective call."""
    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters):
        content = b"".join(p.detach().float().numpy().tobytes() for p in parameters)
    return hashlib.sha256(content).hexdigest()


def run(model: str, stage: int, dtype: str) -> dict[str, Any]:
    """Take two steps, once with faulty steps between them, and once without."""
    engine = make_engine(model, stage, dtype)
    take(engine, model, 0)
    found: dict[str, Any] = {"before": digest(engine), "faults": {}}
    for fault in FAULTS:
        scale_before = float(getattr(engine.optimizer, "loss_scale", 1.0))
        facts = take(engine, model, 4, fault).facts
        found["faults"][fault] = {
            "after": digest(engine),
            "cause": facts.cause,
            "text": facts.describe(),
            "losses": facts.losses,
            "norm": float(engine.get_global_grad_norm() or 0.0),
            "scales": [scale_before, float(getattr(engine.optimizer, "loss_scale", 1.0))],
        }
    is_applied = take(engine, model, 4).facts.is_applied
    found["end"] = [is_applied, digest(engine)]
    engine.destroy()
    undisturbed = make_engine(model, stage, dtype)
    take(undisturbed, model, 0)
    take(undisturbed, model, 4)
    found["undisturbed"] = digest(undisturbed)
    undisturbed.destroy()
    return found


def main() -> None:
    """Run all configurations."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # DeepSpeed refuses fp16 on a CPU without fp16 instructions, where it is slow but correct.
    get_accelerator().is_fp16_supported = lambda: True
    open_world()
    found = {f"{stage} {dtype}": run(args.model, stage, dtype) for stage, dtype in CONFIGS}
    path = args.out / f"{deepspeed.comm.get_rank()}.json"
    path.write_text(json.dumps(found))
    deepspeed.comm.barrier()


if __name__ == "__main__":
    main()
