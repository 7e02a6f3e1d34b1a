"""One rank of the gradient parity test: the real objective under real ZeRO-3, gradients gathered and stored by rank 0.

    deepspeed --num_gpus R parity_worker.py --model FOLDER --out FILE [--frozen]
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad

from dskd_ds.losses.objective import Scales, TeacherTargets
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.spec import load_spec
from dskd_ds.student.model import load_student
from dskd_ds.teacher.signal import top_k_signal

NUM_BLOCKS, LENGTH = 8, 16


def block(number: int, vocab_size: int, size: int) -> tuple[torch.Tensor, TeacherTargets, SenseTargets]:
    """Block `number` with a teacher's word and senses drawn from its number alone; blocks differ in how much is supervised."""
    draw = torch.Generator().manual_seed(number)
    ids = torch.randint(1, vocab_size, (1, LENGTH), generator=draw)
    positions = torch.arange(LENGTH - 1 - number)
    teacher = TeacherTargets(positions, ids[0, 1: len(positions) + 1],
                             top_k_signal(torch.randn(len(positions), vocab_size, generator=draw) * 3, 8, (1.0,)), None)
    num_sense = number % 3  # some blocks have none
    senses = SenseTargets(torch.arange(num_sense), torch.ones(num_sense), torch.randn(num_sense, size, generator=draw),
                          torch.zeros(num_sense), torch.ones(num_sense).bool(), torch.randn(num_sense, 2, size, generator=draw),
                          torch.ones(num_sense, 2).bool())
    return ids, teacher, senses


def main() -> None:
    """Run one optimiser step's forwards and backwards; store every gradient."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--frozen", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    deepspeed.init_distributed()
    rank, size = deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    spec = load_spec("ds_configs/runs/quickstart.toml", ["student.dtype=float32", "loss.chunk_positions=4", "loss.sense_weight=0.5",
                                                         *(["student.train_last_layers=1"] if args.frozen else [])])
    accumulation = NUM_BLOCKS // size
    config = {"train_batch_size": NUM_BLOCKS, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": accumulation,
              "zero_optimization": {"stage": 3, "reduce_bucket_size": 5000, "stage3_param_persistence_threshold": 0,
                                    "stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0},
              "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}}
    student = load_student(spec, args.model, config, 2.0, None)
    trainable = [p for p in student.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(model=student, model_parameters=trainable, config=config)
    shape = SimpleNamespace(**student.language_model.config.to_dict())
    blocks = [block(number, shape.vocab_size, shape.hidden_size) for number in range(NUM_BLOCKS)]
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
        torch.save(gradients, args.out)
    deepspeed.comm.barrier()


if __name__ == "__main__":
    main()
