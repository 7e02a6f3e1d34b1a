"""One rank of the on-policy test: a student under ZeRO-3 trains, generates text, trains again.

torchrun --nproc_per_node R on_policy_worker.py --spec FILE --out FILE [--write]
"""

from __future__ import annotations

import argparse
from typing import Any

import deepspeed
import torch
from parity_worker import LENGTH, block  # Python looks in the script's folder first

from dskd_ds.data.source import open_source
from dskd_ds.models.generation import continue_tokens
from dskd_ds.models.named import RunModels
from dskd_ds.objective.fused import Scales
from dskd_ds.runtime.world import open_world
from dskd_ds.spec import load_spec
from dskd_ds.student.depth import student_init
from dskd_ds.student.engine import make_engine
from dskd_ds.student.on_policy import OnPolicyBlocks, gathered_student


def weights_of(engine: Any) -> dict[str, torch.Tensor]:
    """Return all parameters, gathered from all ranks."""
    found = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            found[name] = parameter.detach().clone()
    return found


def train_step(engine: Any, number: int) -> None:
    """Train one step on a block of the parity test."""
    config = engine.module.language_model.config
    ids, teacher, senses = block(number, config.vocab_size, config.hidden_size)
    loss, _ = engine(ids, torch.arange(LENGTH)[None], teacher, senses, Scales(0.01, 0.01))
    engine.backward(loss)
    engine.step()


def main() -> None:
    """Train two steps; with --write, generate text from the student between them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--spec", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    open_world()
    rank = deepspeed.comm.get_rank()
    spec = load_spec(args.spec)
    models = RunModels.of(spec)
    engine = make_engine(spec, models, student_init(spec, models), None)
    corpus = open_source(
        spec.data,
        models.teacher.tokenizer,
        seed=spec.seed,
        step_blocks=spec.train.global_batch_blocks,
    )
    train_step(engine, rank)
    result: dict[str, Any] = {}
    if args.write:
        before = weights_of(engine)
        blocks = OnPolicyBlocks(spec, models.teacher.tokenizer, rank, corpus, engine)
        in_step_1 = spec.train.global_batch_blocks + rank * spec.train.micro_batch_blocks
        result["row"] = blocks.get(in_step_1)[1]["input_ids"]
        with gathered_student(engine) as model:
            # The ranks generate different numbers of tokens, so their numbers of forwards differ.
            result["short"] = continue_tokens(model, [[5, 6, 7, 8]], [(0,)], 2 + 6 * rank, 0.0, [0])
        after = weights_of(engine)
        assert all(torch.equal(before[name], after[name]) for name in before)
        result["before"] = before
    train_step(engine, rank)
    result["weights"] = weights_of(engine)
    torch.save(result, f"{args.out}.{rank}")
    deepspeed.comm.barrier()


if __name__ == "__main__":
    main()
