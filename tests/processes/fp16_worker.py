"""One rank of the fp16 test: steps of the training loop under ZeRO-3, in float32 and in float16.

    deepspeed --num_gpus 1 --module tests.processes.fp16_worker --model FOLDER --out FILE

It stores gradient norms and the number of skipped steps. DeepSpeed refuses fp16 on a CPU without
fp16 instructions, where it is slow but correct. So this worker overrides DeepSpeed's check;
everything else is as in a run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.runtime.world import open_world
from dskd_ds.spec import load_spec
from dskd_ds.student.engine import take_step
from dskd_ds.student.model import load_student
from dskd_ds.student.replies.feed import MicroBatch, StepInput
from dskd_ds.student.verdict import Counts
from tests.processes.parity_worker import LENGTH, block


def run(model: str, dtype: str, tokens: int) -> dict[str, float]:
    """Train two micro-batches and one update, and return the gradient norm and the loss scale.

    tokens: divides the losses. Few tokens make gradients overflow in fp16, many make them vanish.
    """
    spec = load_spec(
        "tests/base_run.toml",
        [
            f"teacher.model={model}",
            f"student.dtype={dtype}",
            "topology.num_students=1",
            "loss.chunk_positions=4",
            "loss.sense_weight=0.5",
        ],
    )
    config = {
        "train_batch_size": 2,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": 3, "reduce_scatter": False},
        "fp16": {"enabled": dtype == "float16", "loss_scale": 0, "hysteresis": 1},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    }
    student = load_student(
        spec, RunModels.of(spec), NamedModel.of_student(model, spec.student), config, 2.0
    )
    engine, *_ = deepspeed.initialize(
        model=student, model_parameters=list(student.parameters()), config=config
    )
    shape = student.language_model.config
    blocks = [block(number, shape.vocab_size, shape.hidden_size) for number in (1, 2)]
    batches = [
        MicroBatch(ids, torch.arange(LENGTH)[None], teacher, senses)
        for ids, teacher, senses in blocks
    ]
    scale_before = float(engine.optimizer.loss_scale)
    take_step(spec, engine, StepInput(batches, 0.0, 0.0, 0), Counts(tokens, tokens))
    return {
        "grad_norm": float(engine.get_global_grad_norm() or 0),
        "skipped": engine.skipped_steps,
        "scale_before": scale_before,
        "scale_after": float(engine.optimizer.loss_scale),
    }


def main() -> None:
    """Run both number formats with few and with many tokens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # DeepSpeed would refuse fp16 on a CPU without fp16 instructions; see the module's docstring.
    get_accelerator().is_fp16_supported = lambda: True
    open_world()
    found = {
        f"{dtype} {tokens}": run(args.model, dtype, tokens)
        for dtype in ("float32", "float16")
        for tokens in (1, 10_000_000)
    }
    Path(args.out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
