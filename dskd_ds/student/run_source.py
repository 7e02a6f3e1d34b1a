"""Opens the training text of a run for one student."""

from __future__ import annotations

from dskd_ds.data.batches import BlockSource
from dskd_ds.data.packed import check_packed
from dskd_ds.data.source import KEPT_STEPS, lanes_of, open_source
from dskd_ds.models.named import RunModels
from dskd_ds.spec import RunSpec


def open_run_source(spec: RunSpec, models: RunModels, rank: int) -> BlockSource:
    """Open the run's training blocks, for this rank. Rank 0 says so if they are packed."""
    if rank == 0 and spec.data.packed is not None:
        print(check_packed(spec.data, models.teacher.tokenizer, models.max_tokens), flush=True)
    return open_source(
        spec.data,
        models.teacher.tokenizer,
        seed=spec.seed,
        step_blocks=spec.train.global_batch_blocks,
        max_tokens=models.max_tokens,
        lanes=lanes_of(spec, rank),
        keep_steps=spec.link.prefetch_depth + KEPT_STEPS,
    )
