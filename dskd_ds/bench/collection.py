"""Compares the speed of collecting vectors with the speed of the forward pass that it needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from dskd_ds.bench.measure import Figure, interleaved_seconds
from dskd_ds.data.batches import Sample, make_batch
from dskd_ds.data.blocks import train_blocks
from dskd_ds.data.packing import begin_ids
from dskd_ds.models.frozen import load_frozen
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.build.collect import (
    HEAD_POSITIONS,
    attributed,
    collection_layout,
    forward_batches,
)
from dskd_ds.senses.build.spill import BackgroundSpill, Spill
from dskd_ds.spec import RunSpec

NUM_BATCHES = 2


def bench_collection(spec: RunSpec) -> list[Figure]:
    """Return the ratio of tokens/s: collecting / the trunk and the head's arg-max alone.

    Both process the same batches. The repetitions share one spill, so that it commits as rarely as
    in a long build.
    """
    named = NamedModel.of_teacher(spec.teacher)
    teacher, blocks = load_frozen(named), train_blocks(spec.data, named.tokenizer)
    batches = forward_batches(
        len(blocks), spec.data.block_tokens, spec.senses.collect_tokens, spec.seed
    )[:NUM_BATCHES]
    layout = collection_layout(named, spec.senses.vectors_per_token)
    begin = begin_ids(named.tokenizer)
    inputs = [
        make_batch(
            [blocks[number] for number in batch.blocks],
            [Sample(0, number) for number in batch.blocks],
        )
        for batch in batches
    ]

    # The arg-max is part of the floor: with attribution = "argmax" each vector needs it.
    def bare() -> None:
        for batch in inputs:
            hidden = teacher.hidden_states(batch.input_ids, batch.position_ids).flatten(0, 1)
            chunks = hidden.split(HEAD_POSITIONS)
            torch.cat([teacher.logits(chunk).argmax(dim=1) for chunk in chunks]).cpu()

    # Not in /tmp, which is in memory on some machines: a build writes to a disk.
    Path(spec.run_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(spec.run_dir)) as folder:
        spill = BackgroundSpill(Spill(Path(folder), layout))

        def collecting() -> None:
            for batch in batches:
                spill.add(attributed(teacher, blocks, batch, spec, begin), batch.index)

        seconds = interleaved_seconds({"bare": bare, "collecting": collecting})
        spill.close()
    tokens = sum(len(batch.blocks) for batch in batches) * spec.data.block_tokens
    return [
        Figure(
            key="collect_ratio",
            what="tokens/s: collecting / the bare forward pass (trunk and head's arg-max)",
            value=seconds["bare"] / seconds["collecting"],
            target=0.95,
            notes={
                "tokens": tokens,
                "bare_tokens_per_second": round(tokens / seconds["bare"], 1),
                "collecting_tokens_per_second": round(tokens / seconds["collecting"], 1),
            },
        )
    ]


BENCHES: dict[str, Callable[[RunSpec], list[Figure]]] = {"collection": bench_collection}
