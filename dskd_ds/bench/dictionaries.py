"""What the sense benches measure on: the teacher's states over held-out text, and dictionaries of the size that is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dskd_ds.data.batches import Batch, Sample, make_batch
from dskd_ds.data.blocks import heldout_blocks
from dskd_ds.errors import DskdError, InputError
from dskd_ds.models.frozen import load_teacher
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime import launch
from dskd_ds.runtime.console import child_environment
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_own
from dskd_ds.spec import RunSpec, dskd_home, write_spec

LARGE_ROWS = 100_000
"""Senses that the index is measured on, at least."""
LARGE_SETTINGS = {
    "collect_tokens": 112_000,
    "vectors_per_token": 10_000,
    "clustering": "fixed",
    "num_senses": 10_000,
    "max_span_tokens": 1,
}
"""Every vector of so much text is a sense of its own: many senses from little reading, all of them real states."""
BLOCKS_AT_ONCE = 4


@dataclass(frozen=True)
class HeldOut:
    """Held-out text and what the teacher makes of it."""

    batch: Batch
    states: Tensor
    """[B * T, D] float32"""


def held_out(spec: RunSpec, num_blocks: int) -> HeldOut:
    """The first blocks of the held-out text, read by the teacher. Raises InputError if there are fewer."""
    named = NamedModel.of_teacher(spec.teacher)
    blocks = heldout_blocks(spec.data, named.tokenizer)
    if len(blocks) < num_blocks:
        raise InputError(
            f"[data] heldout: it has {len(blocks)} blocks, this bench needs {num_blocks}.\n  give more text."
        )
    batch = make_batch(
        [blocks[i] for i in range(num_blocks)], [Sample(0, i) for i in range(num_blocks)]
    )
    teacher = load_teacher(named)
    states = [
        teacher.hidden_states(ids, positions).float().cpu()
        for ids, positions in zip(
            batch.input_ids.split(BLOCKS_AT_ONCE),
            batch.position_ids.split(BLOCKS_AT_ONCE),
            strict=True,
        )
    ]
    return HeldOut(batch, torch.cat(states).flatten(0, 1))


def large_dictionary(spec: RunSpec) -> SenseDictionary:
    """The spec's dictionary if it has LARGE_ROWS senses of tokens; else one made for this, kept under `$DSKD_HOME/bench`.

    Making it takes about ten minutes on two cores, once. Raises DskdError if that fails.
    """
    teacher = NamedModel.of_teacher(spec.teacher)
    try:
        dictionary = open_own(spec.senses.dictionary, teacher, verify=False)
        if dictionary.num_token_rows >= LARGE_ROWS:
            return dictionary
    except InputError:
        pass
    folder = dskd_home() / "bench" / f"senses-{teacher.fingerprint}"
    large = spec.model_copy(
        update={
            "senses": spec.senses.model_copy(update={**LARGE_SETTINGS, "dictionary": str(folder)})
        }
    )
    if not (folder / "manifest.json").is_file():
        _build(large, folder)
    dictionary = open_own(folder, teacher, verify=False)
    if dictionary.num_token_rows < LARGE_ROWS:
        raise InputError(
            f"[data] train: it gave {dictionary.num_token_rows} senses, the index is measured on {LARGE_ROWS}.\n"
            "  give more text."
        )
    return dictionary


def _build(spec: RunSpec, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    spec_file = folder.with_suffix(".toml")
    write_spec(spec, spec_file)
    command = launch.senses_command(str(spec_file), [], 2, [])
    print(f"building {folder} once, for this and later benches", file=sys.stderr, flush=True)
    if subprocess.run(command, stdout=sys.stderr, env=child_environment(os.environ)).returncode:
        raise DskdError(f"{folder}: the dictionary for the bench could not be built (see above).")
