"""One rank of the gradient parity test: the real objective under real ZeRO-3, gradients gathered and stored by rank 0.

    deepspeed --num_gpus R parity_worker.py --cases FILE.json

The file lists cases, one after the other in the same launch: `model` (a folder), `out` (a file), `frozen`, and `teacher`: null, or a
model of another hidden size, so that the student's states go through a map.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad

from dskd_ds.losses.objective import Scales, TeacherTargets
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.model import DistillStudent, load_student
from dskd_ds.student.world import open_world
from dskd_ds.teacher.checkpoint import read_config
from dskd_ds.teacher.signal import top_k_signal

NUM_BLOCKS, LENGTH = 6, 16


def block(number: int, vocab_size: int, size: int) -> tuple[torch.Tensor, TeacherTargets, SenseTargets]:
    """Block `number` with a teacher's word and senses drawn from its number alone; blocks differ in how much is supervised.

    size: of the senses' space.
    """
    draw = torch.Generator().manual_seed(number)
    ids = torch.randint(1, vocab_size, (1, LENGTH), generator=draw)
    positions = torch.arange(LENGTH - 1 - number)
    teacher = TeacherTargets(positions, ids[0, 1: len(positions) + 1],
                             top_k_signal(torch.randn(len(positions), vocab_size, generator=draw) * 3, 8, (1.0,)))
    num_sense = number % 3  # some blocks have none
    push = torch.randn(num_sense, 2, size, generator=draw)
    senses = SenseTargets(torch.arange(num_sense), torch.ones(num_sense), torch.randn(num_sense, size, generator=draw),
                          torch.zeros(num_sense), torch.ones(num_sense).bool(), push, push.square().sum(2),
                          torch.ones(num_sense, 2).bool())
    return ids, teacher, senses


def spec_of(model: str, teacher: str | None, frozen: bool) -> RunSpec:
    """The run that this worker and the single process have in common."""
    return load_spec("ds_configs/runs/quickstart.toml", [
        f"teacher.model={teacher or model}", "student.dtype=float32", "loss.chunk_positions=4", "loss.sense_weight=0.5",
        *(["student.train_last_layers=1"] if frozen else [])])


def sizes(spec: RunSpec) -> tuple[int, int]:
    """Vocabulary, and size of the senses' space: both the teacher's."""
    config = read_config(spec.teacher.model)
    return config.vocab_size, config.hidden_size


def start_map(student: DistillStudent) -> None:
    """A map that is not zero, so that senses reach the student through it."""
    mapping = student.objective.sense_map
    if mapping is not None:
        mapping.data = torch.randn(mapping.shape, generator=torch.Generator().manual_seed(0)) * 0.1


def main() -> None:
    """All cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--cases", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    open_world()
    for case in json.loads(args.cases.read_text()):
        run(case)
    deepspeed.comm.barrier()


def run(case: dict[str, Any]) -> None:
    """One optimiser step's forwards and backwards; store every gradient."""
    rank, size = deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    spec = spec_of(case["model"], case["teacher"], case["frozen"])
    accumulation = NUM_BLOCKS // size
    config = {"train_batch_size": NUM_BLOCKS, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": accumulation,
              "zero_optimization": {"stage": 3, "reduce_bucket_size": 5000, "stage3_param_persistence_threshold": 0,
                                    "stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0},
              "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}}
    student = load_student(spec, case["model"], config, 2.0)
    start_map(student)
    trainable = [p for p in student.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(model=student, model_parameters=trainable, config=config)
    blocks = [block(number, *sizes(spec)) for number in range(NUM_BLOCKS)]
    tokens, senses = (sum(len(b[part].positions) for b in blocks) for part in (1, 2))
    scales = Scales(token=NUM_BLOCKS / tokens, sense=NUM_BLOCKS / senses)
    position_ids = torch.arange(LENGTH)[None]
    for step in range(accumulation):
        ids, teacher, sense = blocks[step * size + rank]
        loss, _ = engine(ids, position_ids, teacher, sense, scales)
        engine.backward(loss)
        if step < accumulation - 1:
            engine.step()
    gradients = {name: safe_get_full_grad(p).clone() for name, p in engine.module.named_parameters() if p.requires_grad}
    if rank == 0:
        torch.save(gradients, case["out"])
    engine.destroy()


if __name__ == "__main__":
    main()
