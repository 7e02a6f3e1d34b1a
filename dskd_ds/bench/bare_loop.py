"""The DeepSpeed loop that a user would write without this project, as a reference for the benches.

It trains the same model on the same blocks with cross-entropy:

    deepspeed --num_gpus 1 --module dskd_ds.bench.bare_loop --spec FILE.toml [--set KEY=VALUE ...]
    [--without-deepspeed]

The figures `stream_time_ratio` and `loop_ratio` compare with it. With --without-deepspeed it runs
forward and backward only, which is the floor of the time per step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import deepspeed
from deepspeed.utils import set_z3_leaf_modules
from torch import Tensor
from torch.nn import functional as F

from dskd_ds.data.batches import Batch, places, read_batch
from dskd_ds.data.source import open_source
from dskd_ds.models.layers import layers_of
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.observe.metrics import METRICS_FILE
from dskd_ds.runtime.arguments import add_overrides
from dskd_ds.runtime.console import quiet_libraries, quiet_progress
from dskd_ds.runtime.devices import resolve_dtype, use_threads
from dskd_ds.runtime.world import open_world
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.depth import student_init
from dskd_ds.student.ds_config import deepspeed_config


def main() -> None:
    """Parse the arguments and train with cross-entropy for [train] num_steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", required=True)
    add_overrides(parser)
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--without-deepspeed", action="store_true")
    args = parser.parse_args()
    quiet_libraries()
    quiet_progress()
    spec = load_spec(args.spec, args.set)
    use_threads(spec.topology.threads_per_rank)
    open_world()
    use_deepspeed = not args.without_deepspeed
    model = load_model(spec, use_deepspeed=use_deepspeed)
    train(spec, model, use_deepspeed=use_deepspeed)


def load_model(spec: RunSpec, use_deepspeed: bool) -> Any:
    """Return the student.

    ZeRO-3 partitions it while it is loaded; with use_deepspeed false it is an unpartitioned model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    # transformers partitions a model while it loads as long as this object is alive.
    zero_config = HfDeepSpeedConfig(deepspeed_config(spec)) if use_deepspeed else None
    model: Any = AutoModelForCausalLM.from_pretrained(
        student_init(spec, RunModels.of(spec)).path, dtype=resolve_dtype(spec.student.dtype)
    )
    del zero_config
    # Few users know this line, but the reference should be as fast as possible.
    # student/model.py has it too.
    set_z3_leaf_modules(model, [type(layers_of(model)[0])])
    return model.train()


def train(spec: RunSpec, model: Any, use_deepspeed: bool) -> None:
    """Train for [train] num_steps and write one line to metrics.jsonl after each step."""
    engine: Any = model
    if use_deepspeed:
        engine, *_ = deepspeed.initialize(
            model=model, model_parameters=list(model.parameters()), config=deepspeed_config(spec)
        )
    rank = deepspeed.comm.get_rank()
    source = open_source(
        spec.data,
        NamedModel.of_teacher(spec.teacher).tokenizer,
        seed=spec.seed,
        step_blocks=spec.train.global_batch_blocks,
    )
    with (Path(spec.run_dir) / METRICS_FILE).open("w", encoding="utf-8") as log:
        for step in range(spec.train.num_steps or 0):
            for micro in range(spec.num_accumulation_steps):
                batch = read_batch(source, places(spec, step, micro, rank))
                loss = cross_entropy(engine, batch)
                if use_deepspeed:
                    engine.backward(loss)
                    engine.step()
                else:
                    # The floor has no optimiser: forward and backward only.
                    loss.backward()
                    model.zero_grad()
            # bench/follow.py takes the moment at which this line appears as the end of the step.
            log.write(json.dumps({"step": step + 1, "loss": loss.item()}) + "\n")
            log.flush()


def cross_entropy(model: Any, batch: Batch) -> Tensor:
    """Return the mean cross-entropy over a batch's supervised positions, from all its logits."""
    logits = model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
    ).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten())


if __name__ == "__main__":
    main()
