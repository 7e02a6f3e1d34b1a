"""One rank of the generation test: a student under ZeRO-3 that trains a step, writes, and trains another.

    deepspeed --num_gpus R on_policy_worker.py --spec FILE --out FILE [--write]
"""

from __future__ import annotations

import argparse
from typing import Any

import deepspeed
import torch

from dskd_ds.data.batches import make_batch, open_source
from dskd_ds.generation import continue_tokens
from dskd_ds.losses.objective import Scales, TeacherTargets
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.spec import load_spec
from dskd_ds.student.depth import student_init
from dskd_ds.student.loop import make_engine
from dskd_ds.student.on_policy import OnPolicyBlocks, plain_student
from dskd_ds.teacher.signal import top_k_signal


def weights_of(engine: Any) -> dict[str, torch.Tensor]:
    """Every parameter, whole."""
    found = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            found[name] = parameter.detach().clone()
    return found


def train_step(engine: Any, row: tuple[Any, dict[str, Any]]) -> None:
    """One forward, backward and update on a block, with a teacher's word that is drawn."""
    batch = make_batch([row[1]], [row[0]])
    supervised = batch.supervised
    draw = torch.Generator().manual_seed(1)
    config = engine.module.language_model.config
    signal = top_k_signal(torch.randn(len(supervised), config.vocab_size, generator=draw), 8, (1.0,))
    teacher = TeacherTargets(supervised, batch.targets.flatten()[supervised], signal, None)
    loss, _ = engine(batch.input_ids, batch.position_ids, teacher, SenseTargets.empty(config.hidden_size), Scales(0.01, 1.0))
    engine.backward(loss)
    engine.step()


def main() -> None:
    """Train on two corpus blocks; in between, with --write, generate from the student as it is now."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--spec", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    deepspeed.init_distributed()
    rank = deepspeed.comm.get_rank()
    spec = load_spec(args.spec)
    engine = make_engine(spec, student_init(spec), None)
    corpus = open_source(spec)
    train_step(engine, corpus.get(rank))
    result: dict[str, Any] = {}
    if args.write:
        before = weights_of(engine)
        blocks = OnPolicyBlocks(spec, rank, corpus, engine)
        result["row"] = blocks.get(spec.train.global_batch_blocks + rank * spec.train.micro_batch_blocks)[1]["input_ids"]  # step 1
        with plain_student(engine) as model:
            # Ranks may ask for different numbers of forward calls.
            result["short"] = continue_tokens(model, [[5, 6, 7, 8]], [(0,)], 2 + 6 * rank, 0.0, [0])
        after = weights_of(engine)
        assert all(torch.equal(before[name], after[name]) for name in before)
        result["before"] = before
    train_step(engine, corpus.get(rank))
    result["weights"] = weights_of(engine)
    torch.save(result, f"{args.out}.{rank}")
    deepspeed.comm.barrier()


if __name__ == "__main__":
    main()
