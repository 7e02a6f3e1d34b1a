"""One rank of the checkpoint tests: engines that load a checkpoint, train, and save one.

torchrun --nproc_per_node R checkpoint_worker.py --cases FILE.json

The file lists cases, which run one after the other: `spec` (a file), `overrides`, `load` (whether
to resume from the run directory), `steps` (to train then), `save` (whether to save then, and to
measure the loss on held-out text after each step), and `out` (a file, to which rank 0 writes the
whole weights and moments, as DeepSpeed's own functions gather them). DeepSpeed saves too, in the
way of earlier versions, for the run directory that `old_run_dir` names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from parity_worker import LENGTH, block  # Python looks in the script's folder first
from torch import Tensor

from dskd_ds.models.named import RunModels
from dskd_ds.objective.fused import Scales
from dskd_ds.runtime.world import open_world
from dskd_ds.spec import load_spec
from dskd_ds.student.checkpoint.folders import FOLDER, tag_of
from dskd_ds.student.checkpoint.slice_files import MASTER, MOMENTS
from dskd_ds.student.checkpoint.store import Checkpoints, Progress
from dskd_ds.student.depth import student_init
from dskd_ds.student.engine import make_engine, set_lr
from dskd_ds.student.heldout_loss import HeldoutLoss
from dskd_ds.student.run_state import EngineState


def train_step(engine: Any, number: int) -> None:
    """Train one step on a block of the parity test."""
    config = engine.module.language_model.config
    ids, teacher, senses = block(number, config.vocab_size, config.hidden_size)
    set_lr(engine, 1e-3)
    loss, _ = engine(ids, torch.arange(LENGTH)[None], teacher, senses, Scales(0.01, 0.01))
    engine.backward(loss)
    engine.step()


def whole_state(engine: Any) -> dict[str, dict[str, Tensor]]:
    """Return each parameter's weight, and of each trained one the optimiser's weight and moments.

    Gathered by DeepSpeed's functions, which the program itself does not use.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            found[name] = {"weight": parameter.detach().clone().cpu()}
        if parameter.requires_grad:
            for kind in (MASTER, *MOMENTS):
                found[name][kind] = _whole(engine, parameter, kind).flatten().cpu()
    return found


def _whole(engine: Any, parameter: Any, kind: str) -> Tensor:
    """Return a whole tensor of the optimiser."""
    optimizer = engine.optimizer
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            optimizer._lazy_init_hp_params_optimizer_state()
        if kind == MASTER:
            return safe_get_full_fp32_param(parameter).clone()
        return safe_get_full_optimizer_state(parameter, kind).clone()
    master = parameter  # stage 0 in float32
    if hasattr(optimizer, "fp32_groups"):
        pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        (master,) = [
            masters[index]
            for parameters, masters in pairs
            for index, other in enumerate(parameters)
            if other is parameter
        ]
    if kind == MASTER:
        return master.detach().clone()
    return engine.basic_optimizer.state[master][kind].clone()


def run_case(case: dict[str, Any]) -> None:
    """Run one case and write what it found."""
    spec = load_spec(case["spec"], case["overrides"])
    models = RunModels.of(spec)
    init = student_init(spec, models)
    engine: Any = make_engine(spec, models, init, None)
    checkpoints = Checkpoints(
        engine, spec, init_fingerprint=init.fingerprint, states={"engine": EngineState(engine)}
    )
    done = checkpoints.resume() if case["load"] else Progress()
    loaded = whole_state(engine) if done.step else {}
    rank, num_ranks = deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    heldout = HeldoutLoss(spec, models.teacher.tokenizer, rank, engine) if case["save"] else None
    heldout_losses = []
    for step in range(done.step, done.step + case["steps"]):
        train_step(engine, (step * num_ranks + rank) % 6)
        if heldout:
            heldout_losses.append(heldout.all_reduce_score().loss)
    if case["save"]:
        checkpoints.save(Progress(done.step + case["steps"], 7))
        old_folder = str(Path(case["old_run_dir"], FOLDER))
        tag = tag_of(done.step + case["steps"])
        engine.save_checkpoint(old_folder, tag=tag, save_latest=False)
    result = {
        "step": done.step,
        "loaded": loaded,
        "trained": whole_state(engine),
        "skipped": engine.skipped_steps,
        "global_steps": engine.global_steps,
        "heldout_losses": heldout_losses,
    }
    if rank == 0:
        torch.save(result, case["out"])
    engine.destroy()


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--cases", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    open_world()
    for case in json.loads(Path(args.cases).read_text()):
        run_case(case)
    deepspeed.comm.barrier()


if __name__ == "__main__":
    main()
