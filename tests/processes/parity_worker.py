"""One rank of the gradient parity test: a step of the training loop under ZeRO-3.

    torchrun --nproc_per_node R parity_worker.py --cases FILE.json

Rank 0 stores the gathered gradients. The file lists cases, which run one after the other: `model`
(a folder), `out` (a file), `frozen` (a key of FROZEN), `compiled`, `run_dir`: null, or that of a
run with losses below the head (term_case.py), and `teacher`: null, or a model of another hidden
size, which makes the student's states go through a map.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad

from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.runtime.world import open_world
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.engine import take_step
from dskd_ds.student.model import DistillStudent, load_student
from dskd_ds.student.replies.feed import MicroBatch, StepInput
from dskd_ds.student.verdict import Counts
from tests.processes import term_case

NUM_BLOCKS, LENGTH = 6, 16
FROZEN = {
    "nothing": [],
    "first layer": ["student.train_last_layers=1"],
    "embeddings": ["student.train_embeddings=false"],
}


def block(
    number: int, vocab_size: int, size: int
) -> tuple[torch.Tensor, TeacherTargets, SenseTargets]:
    """Return a block with a teacher's signal and senses, all drawn from its number.

    Blocks differ in the number of positions that are trained. size: dimensions of the senses.
    """
    draw = torch.Generator().manual_seed(number)
    ids = torch.randint(1, vocab_size, (1, LENGTH), generator=draw)
    positions = torch.arange(LENGTH - 1 - number)
    teacher = TeacherTargets(
        positions,
        ids[0, 1 : len(positions) + 1],
        take_top_k(torch.randn(len(positions), vocab_size, generator=draw) * 3, 8, (1.0,)),
    )
    num_sense = number % 3  # some blocks have none
    senses = term_case.random_senses(num_sense, size, draw)
    return ids, teacher, senses


def spec_of(
    model: str,
    teacher: str | None,
    frozen: str,
    num_students: int = 1,
    compiled: bool = False,
    run_dir: str | None = None,
) -> RunSpec:
    """Return the run spec that this worker and the single process share."""
    return load_spec(
        "tests/base_run.toml",
        [
            f"teacher.model={teacher or model}",
            "student.dtype=float32",
            "loss.chunk_positions=4",
            "loss.sense_weight=0.5",
            f"train.global_batch_blocks={NUM_BLOCKS}",
            f"topology.num_students={num_students}",
            f"student.compile={str(compiled).lower()}",
            *FROZEN[frozen],
            *(term_case.settings(run_dir) if run_dir else []),
        ],
    )


def blocks_of(spec: RunSpec) -> list[tuple[torch.Tensor, TeacherTargets, SenseTargets]]:
    """Return all blocks of a case, with what its losses below the head learn from."""
    blocks = [block(number, *sizes(spec)) for number in range(NUM_BLOCKS)]
    if not spec.loss.terms:
        return blocks
    size = sizes(spec)[1]
    return [
        (ids, term_case.with_terms(teacher, number, size), senses)
        for number, (ids, teacher, senses) in enumerate(blocks)
    ]


def sizes(spec: RunSpec) -> tuple[int, int]:
    """Return the vocabulary size and the dimensions of the senses; both are the teacher's."""
    teacher = NamedModel.of_teacher(spec.teacher)
    return teacher.vocab_size, teacher.hidden_size


def start_map(student: DistillStudent) -> None:
    """Set the map to random numbers: it starts at zero, and then passes no gradient."""
    mapping = student.objective.sense_map
    if mapping is not None:
        mapping.data = torch.randn(mapping.shape, generator=torch.Generator().manual_seed(0)) * 0.1


def main(run_case: Callable[[dict[str, Any]], None]) -> None:
    """Run all cases of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--cases", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    open_world()
    for case in json.loads(args.cases.read_text()):
        run_case(case)
    deepspeed.comm.barrier()


def run(case: dict[str, Any]) -> None:
    """Train one step and store the gradients that the optimiser uses."""
    rank, size = deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    spec = spec_of(
        case["model"],
        case["teacher"],
        case["frozen"],
        num_students=size,
        compiled=case["compiled"],
        run_dir=case["run_dir"],
    )
    # Buckets are smaller than most parameters, and no parameter stays gathered between two uses.
    config = {
        "train_batch_size": NUM_BLOCKS,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": NUM_BLOCKS // size,
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": 5000,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
            "stage3_prefetch_bucket_size": 0,
        },
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    }
    student = load_student(
        spec, RunModels.of(spec), NamedModel.of_student(case["model"], spec.student), config, 2.0
    )
    start_map(student)
    trainable = [p for p in student.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(model=student, model_parameters=trainable, config=config)
    blocks = blocks_of(spec)
    tokens, senses = (sum(len(b[part].positions) for b in blocks) for part in (1, 2))
    mine = [
        MicroBatch(ids, torch.arange(LENGTH)[None], teacher, sense)
        for ids, teacher, sense in blocks[rank::size]
    ]
    gradients = record_gradients(engine)
    take_step(spec, engine, StepInput(mine, 0.0, 0.0, 0), Counts(tokens, senses))
    if rank == 0:
        torch.save(gradients, case["out"])
    engine.destroy()


def record_gradients(engine: Any) -> dict[str, torch.Tensor]:
    """Return a table that is filled with all gradients, by name, just before the optimiser's step.

    After the step DeepSpeed has freed them.
    """
    found: dict[str, torch.Tensor] = {}
    step = engine.step

    def record_and_step() -> None:
        if engine.is_gradient_accumulation_boundary():
            for name, parameter in engine.module.named_parameters():
                if parameter.requires_grad:
                    found[name] = safe_get_full_grad(parameter).clone()
        step()

    engine.step = record_and_step
    return found


if __name__ == "__main__":
    main(run)
