"""One rank of the optimiser test: steps of the training loop under each ZeRO stage.

    torchrun --nproc_per_node R optimizer_worker.py --cases FILE.json

The file lists cases, which run one after the other: `model` (a folder), `out` (a file), `stage`,
and `overrides` of the spec. Rank 0 stores what a case has found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.checkpoint.unchanged import UnchangedWeights
from dskd_ds.student.ds_config import deepspeed_config
from dskd_ds.student.engine import set_lr, take_step
from dskd_ds.student.model import load_student
from dskd_ds.student.replies.feed import MicroBatch, StepInput
from dskd_ds.student.verdict import Counts
from tests.processes.parity_worker import LENGTH, block, main

NUM_STEPS, NUM_BLOCKS = 3, 2
MARGIN = 2.0


def spec_of(model: str, deepspeed_file: str, num_students: int, overrides: list[str]) -> RunSpec:
    """Return the run spec that this worker and the single process share."""
    return load_spec(
        "tests/base_run.toml",
        [
            f"teacher.model={model}",
            f"deepspeed={deepspeed_file}",
            "student.dtype=float32",
            "loss.chunk_positions=4",
            "loss.sense_weight=0.5",
            f"train.global_batch_blocks={NUM_BLOCKS}",
            f"topology.num_students={num_students}",
            *overrides,
        ],
    )


def micro_batches(step: int, vocab_size: int, size: int) -> list[MicroBatch]:
    """Return all micro-batches of a step, over all ranks, in the global order."""
    found = []
    for index in range(NUM_BLOCKS):
        place = step * NUM_BLOCKS + index
        ids, teacher, senses = block(place, vocab_size, size)
        positions = torch.arange(LENGTH)[None]
        found.append(MicroBatch(ids, positions, teacher, senses, place=place))
    return found


def counts_of(batches: list[MicroBatch]) -> Counts:
    """Return what the sums of a step are divided by."""
    num_tokens = sum(len(batch.teacher.positions) for batch in batches)
    return Counts(num_tokens, sum(len(batch.senses.positions) for batch in batches))


def run(case: dict[str, Any]) -> None:
    """Train some steps, and store weights, losses, norms and the format of AdamW's state."""
    rank, num_ranks = deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    file = Path(case["out"]).with_suffix(f".{rank}.json")
    file.write_text(json.dumps({"zero_optimization": {"stage": case["stage"]}}))
    spec = spec_of(case["model"], str(file), num_ranks, case["overrides"])
    config = deepspeed_config(spec)
    init = NamedModel.of_student(case["model"], spec.student)
    student = load_student(spec, RunModels.of(spec), init, config, MARGIN).train()
    trainable = [p for p in student.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(model=student, model_parameters=trainable, config=config)
    unchanged = UnchangedWeights.of_run(spec, engine)
    shape = student.language_model.config
    found: dict[str, Any] = {"sums": [], "grad_norms": [], "unchanged": [], "moment_norms": []}
    for step in range(NUM_STEPS):
        batches = micro_batches(step, shape.vocab_size, shape.hidden_size)
        set_lr(engine, spec.peak_lr)
        mine = StepInput(batches[rank::num_ranks], 0.0, 0.0, 0)
        sums = take_step(spec, engine, mine, counts_of(batches)).sums
        deepspeed.comm.all_reduce(sums)
        found["sums"].append(sums)
        found["grad_norms"].append(float(engine.get_global_grad_norm() or 0.0))
        found["moment_norms"].append(moment_norm(engine))
        if unchanged:
            found["unchanged"].append(unchanged.all_reduce_share()["unchanged_weights"])
    states = [state for state in engine.basic_optimizer.state.values() if "exp_avg" in state]
    moments = [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]
    found["state_dtypes"] = sorted({str(moment.dtype) for moment in moments})
    found["weights"] = gathered_weights(engine)
    if rank == 0:
        torch.save(found, case["out"])
    engine.destroy()


def moment_norm(engine: Any) -> float:
    """Return the norm of this rank's share of AdamW's first moment."""
    moments = [s["exp_avg"].float() for s in engine.basic_optimizer.state.values() if s]
    return float(torch.nn.utils.get_total_norm(moments))


def gathered_weights(engine: Any) -> dict[str, Tensor]:
    """Return a copy of every parameter. A collective call."""
    found = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            found[name] = parameter.detach().clone()
    return found


if __name__ == "__main__":
    main(run)
