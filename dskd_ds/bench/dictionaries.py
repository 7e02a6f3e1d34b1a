"""Provides the input of the sense benches: held-out teacher states and a large dictionary."""

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
from dskd_ds.files.manifest import MANIFEST_FILE
from dskd_ds.models.frozen import load_frozen
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime import launch
from dskd_ds.runtime.console import child_environment
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_own
from dskd_ds.spec import RunSpec, dskd_home, write_spec

LARGE_ROWS = 100_000
"""The index is measured on at least this many senses."""
LARGE_SETTINGS = {
    "collect_tokens": 112_000,
    "vectors_per_token": 10_000,
    "clustering": "fixed",
    "num_senses": 10_000,
    "max_span_tokens": 1,
}
"""With these settings every vector becomes a sense: many senses, all real states, little text."""
BLOCKS_PER_FORWARD = 4


@dataclass(frozen=True)
class HeldOut:
    """Held-out text and the teacher's states on it."""

    batch: Batch
    states: Tensor
    """[B * T, D] float32"""


def held_out(spec: RunSpec, num_blocks: int) -> HeldOut:
    """Return the first num_blocks blocks of the held-out text with the teacher's states.

    Raises InputError if there are fewer blocks.
    """
    named = NamedModel.of_teacher(spec.teacher)
    blocks = heldout_blocks(spec.data, named.tokenizer)
    if len(blocks) < num_blocks:
        raise InputError(
            f"[data] heldout has {len(blocks)} blocks, but this bench needs {num_blocks}.\n"
            "  add more text."
        )
    indices = range(num_blocks)
    batch = make_batch([blocks[i] for i in indices], [Sample(0, i) for i in indices])
    teacher = load_frozen(named)
    states = [
        teacher.hidden_states(ids, positions).float().cpu()
        for ids, positions in zip(
            batch.input_ids.split(BLOCKS_PER_FORWARD),
            batch.position_ids.split(BLOCKS_PER_FORWARD),
            strict=True,
        )
    ]
    return HeldOut(batch, torch.cat(states).flatten(0, 1))


def large_dictionary(spec: RunSpec) -> SenseDictionary:
    """Return a dictionary with at least LARGE_ROWS senses of tokens.

    This is the spec's dictionary if it is large enough; otherwise one built for the bench and kept
    below `$DSKD_HOME/bench`. Building takes about ten minutes on two cores, once.
    Raises DskdError if the build fails, InputError if the text is too short.
    """
    teacher = NamedModel.of_teacher(spec.teacher)
    try:
        dictionary = open_own(spec.senses.dictionary, teacher, verify=False)
        if dictionary.num_token_rows >= LARGE_ROWS:
            return dictionary
    except InputError:
        pass  # it does not exist or is of another teacher
    folder = dskd_home() / "bench" / f"senses-{teacher.fingerprint}"
    # The manifest is written last, so a folder with a manifest holds a complete dictionary.
    if not (folder / MANIFEST_FILE).is_file():
        settings = LARGE_SETTINGS | {"dictionary": str(folder)}
        senses = spec.senses.model_copy(update=settings)
        _build(spec.model_copy(update={"senses": senses}), folder)
    dictionary = open_own(folder, teacher, verify=False)
    if dictionary.num_token_rows < LARGE_ROWS:
        raise InputError(
            f"[data] train gave {dictionary.num_token_rows} senses, "
            f"but the index is measured on {LARGE_ROWS}.\n"
            "  add more text."
        )
    return dictionary


def _build(spec: RunSpec, folder: Path) -> None:
    """Build the spec's dictionary in `folder` with two ranks. Raises DskdError if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    spec_file = folder.with_suffix(".toml")
    write_spec(spec, spec_file)
    command = launch.senses_command(str(spec_file), [], 2, [])
    print(f"building {folder} once, for this and later benches", file=sys.stderr, flush=True)
    environment = child_environment(os.environ)
    if subprocess.run(command, stdout=sys.stderr, env=environment).returncode:
        raise DskdError(f"{folder}: building the dictionary for the bench failed (see above).")
