"""Measures the memory of student ranks in real DeepSpeed runs of models with random weights.

    python -m tools.plan_validation.memory_runs --folder DIR --case '{"name": ..., ...}'

Every rank is a process of its own in a real gloo world, with the engine and the steps of a run. The
teacher's signal is made up: what it says changes no size. Ranks are forked from one process that
has imported everything, because importing takes longer than the steps. The figure is the largest
resident memory of a rank beyond what it had before it made the engine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.observe.memory import peak_host_bytes, resident_bytes
from dskd_ds.plan.fake_student import FakeSizes, fake_batch
from dskd_ds.runtime.devices import give_back_memory
from dskd_ds.runtime.launch import free_port
from dskd_ds.runtime.world import open_world
from dskd_ds.spec import RunSpec
from dskd_ds.student.engine import make_engine, take_step
from dskd_ds.student.replies.feed import MicroBatch, StepInput
from dskd_ds.student.verdict import Counts
from tools.plan_validation.case import Case, case_spec, model_folder

NUM_STEPS = 3
"""The first step has no record of ZeRO-3's calls, the second one creates AdamW's moments."""


def write_weights(model: Path) -> None:
    """Write random weights beside a model's configuration, unless there are some."""
    if not (model / "model.safetensors").is_file():
        config = AutoConfig.from_pretrained(model)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(model)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Run a case and return the bytes of the rank that took most, by moment."""
    model = model_folder(case, folder)
    write_weights(model)
    spec = case_spec(case, model)
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    port, num_ranks = free_port(), spec.topology.num_students
    ranks = [
        context.Process(target=_run_rank, args=(case, spec, model, rank, port, results))
        for rank in range(num_ranks)
    ]
    for process in ranks:
        process.start()
    found = [results.get() for _ in ranks]
    for process in ranks:
        process.join()
    largest: dict[str, Any] = max(found, key=_peak)
    return largest


def _peak(result: dict[str, Any]) -> int:
    return int(result["peak"])


def _run_rank(case: Case, spec: RunSpec, model: Path, rank: int, port: int, results: Any) -> None:
    """Run one rank's steps, and put its bytes into the queue; -1 if it fails."""
    try:
        results.put(_steps(case, spec, model, rank, port))
    except BaseException as error:  # the parent waits for an answer from each rank
        results.put({"peak": -1, "error": repr(error)})
        raise


def _steps(case: Case, spec: RunSpec, model: Path, rank: int, port: int) -> dict[str, Any]:
    """Return a rank's bytes above those before the engine, by moment."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(spec.topology.num_students),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    open_world()
    models = RunModels.of(spec)
    init = NamedModel.of_student(str(model), spec.student)
    before = resident_bytes()
    engine = make_engine(spec, models, init, None)
    moments = {"loaded": peak_host_bytes() - before, "engine": resident_bytes() - before}
    give_back_memory()
    Path("/proc/self/clear_refs").write_text(
        "5", encoding="utf-8"
    )  # sets the peak to the present size
    moments["given back"] = resident_bytes() - before
    sizes = FakeSizes(case.hidden, torch.float32, case.sense_positions)
    cpu = torch.device("cpu")
    ids, positions, teacher, senses = fake_batch(spec, init.config, sizes, cpu)
    batch = MicroBatch(ids, positions, teacher, senses)
    step_input = StepInput([batch] * spec.num_accumulation_steps, 0.0, 0.0, 0)
    counts = Counts(max(len(teacher.positions), 1), max(case.sense_positions, 1))
    for step in range(NUM_STEPS):
        take_step(spec, engine, step_input, counts)
        moments[f"step {step + 1}"] = _peak_bytes() - before
        moments[f"after step {step + 1}"] = resident_bytes() - before
    return {"peak": _peak_bytes() - before, "moments": moments}


def _peak_bytes() -> int:
    """Return the largest resident memory since the peak was reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def main() -> None:
    """Measure the cases and print one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder for the models")
    parser.add_argument("--case", action="append", required=True, help="a case as JSON")
    args = parser.parse_args()
    for text in args.case:
        case = Case(**json.loads(text))
        print(json.dumps({**asdict(case), **measure(case, args.folder)}), flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
