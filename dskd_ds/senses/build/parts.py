"""Clusters a collection bucket by bucket, each bucket on one rank, and joins the results.

No process holds all of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from dskd_ds.data.block import Blocks
from dskd_ds.files.atomic import atomic_folder
from dskd_ds.runtime.devices import local_device
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.cluster import Points, cluster
from dskd_ds.senses.build.corpora import Collection
from dskd_ds.senses.build.refresh import old_points, refreshed
from dskd_ds.senses.build.spill import Layout
from dskd_ds.senses.build.vectors import Rows, is_held_out, states_of
from dskd_ds.senses.dictionary.contexts import (
    CONTEXTS_FILE,
    SCHEMA,
    Context,
    contexts_table,
    snippets,
)
from dskd_ds.senses.dictionary.dictionary import HELDOUT_FILE, HeldOut, SenseDictionary
from dskd_ds.senses.dictionary.facts import SENSES_FILE
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec import RunSpec

MAX_HELD_OUT = 4096
"""Maximum number of held-out states that are stored with a dictionary."""


def cluster_parts(
    collected: Collection,
    spec: RunSpec,
    tokenizer: Any,
    blocks: Blocks,
    folder: Path,
    comm: Communicator,
    old: SenseDictionary | None = None,
) -> None:
    """Cluster every bucket into a part below `folder`. Collective.

    Parts that exist are kept. old: the dictionary that is refreshed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buckets = collected.buckets
    # A refresh rewrites the whole dictionary, so it also needs buckets without new vectors.
    if old:
        token_owners = old.row_owners[: old.num_token_rows]
        old_buckets = np.unique(token_owners // collected.layout.bucket_tokens)
        buckets = sorted({*buckets, *old_buckets.tolist()})
    for bucket in tqdm(
        buckets[comm.rank :: comm.size],
        desc=f"clustering on {comm.size} ranks",
        unit="range",
        disable=comm.rank > 0,
    ):
        target = folder / f"{bucket:06d}"
        if target.is_dir():
            continue  # an earlier launch completed this part
        rows = collected.rows(bucket)
        held_out = is_held_out(rows)
        senses = cluster_bucket(
            rows[~held_out], spec=spec, bucket=bucket, layout=collected.layout, old=old
        )
        with atomic_folder(target) as partial:
            _write_part(partial, senses, rows[held_out])
            texts = contexts_of(senses, blocks, spec=spec, tokenizer=tokenizer, old=old)
            pq.write_table(texts, partial / CONTEXTS_FILE)
    comm.barrier()


def cluster_bucket(
    rows: Rows, spec: RunSpec, bucket: int, layout: Layout, old: SenseDictionary | None
) -> Senses:
    """Return the senses of a bucket's tokens.

    rows: its new vectors. old: the dictionary that is refreshed; its senses of these tokens are
    clustered together with the vectors.
    """
    points = Points.of_rows(rows)
    if old is None:
        return cluster(points, spec=spec.senses, seed=spec.seed, device=local_device())
    first_token = bucket * layout.bucket_tokens
    end_token = min(first_token + layout.bucket_tokens, layout.vocab_size)
    before = old_points(old, first_token, end_token)
    return refreshed(before, points, spec=spec.senses, seed=spec.seed, device=local_device())


def contexts_of(
    senses: Senses, blocks: Blocks, spec: RunSpec, tokenizer: Any, old: SenseDictionary | None
) -> pa.Table:
    """Return the contexts of each sense as a table; rows are indices into these senses.

    old: the dictionary that is refreshed, which has the contexts of its own senses.
    """
    max_contexts = spec.senses.contexts_per_sense
    if not max_contexts:
        return contexts_table([], [], [])
    sources = np.concatenate([*senses.sources, np.zeros(0, np.int64)])
    positions = sources[sources >= 0]
    texts = snippets(
        blocks,
        positions,
        block_tokens=spec.data.block_tokens,
        tokenizer=tokenizer,
        of_read_tokens=spec.senses.attribution == "on",
    )
    contexts_at = {
        position: [text] for position, text in zip(positions.tolist(), texts, strict=True)
    }
    if old:
        # An old sense is a point with several contexts; its source is -1 - row (cluster.Points).
        old_rows = -1 - sources[sources < 0]
        contexts_at |= {-1 - row: near for row, near in old.contexts_of(old_rows.tolist()).items()}
    rows: list[int] = []
    ranks: list[int] = []
    contexts: list[Context] = []
    for row, nearest in enumerate(senses.sources):
        of_row = [context for source in nearest.tolist() for context in contexts_at[source]]
        of_row = of_row[:max_contexts]
        rows += [row] * len(of_row)
        ranks += range(len(of_row))
        contexts += of_row
    return contexts_table(rows, ranks, contexts)


def _write_part(folder: Path, senses: Senses, held_out: Rows) -> None:
    """Write the senses and held-out states of one bucket."""
    assert senses.spreads is not None
    tensors = {
        "owners": torch.from_numpy(senses.owners),
        "centroids": senses.centroids.to(torch.bfloat16).contiguous(),
        "counts": torch.from_numpy(senses.counts),
        "spreads": torch.from_numpy(senses.spreads),
    }
    save_file(tensors, folder / SENSES_FILE)
    save_file(vars(held_out_of(held_out)), folder / HELDOUT_FILE)


def held_out_of(rows: Rows) -> HeldOut:
    """Return records as held-out states."""
    return HeldOut(
        tokens=torch.from_numpy(rows["token"].copy()),
        hashes=torch.from_numpy(rows["hash"].copy()),
        states=states_of(rows),
    )


@dataclass(frozen=True)
class Parts:
    """All parts of a clustering, read as one."""

    folder: Path

    @property
    def folders(self) -> list[Path]:
        """Folders of the parts, in order of their tokens."""
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and not path.suffix)

    def senses(self) -> Senses:
        """Return all senses; their centroids are mapped from a file beside the parts."""
        owners: list[NDArray[np.int64]] = []
        counts: list[NDArray[np.int64]] = []
        spreads: list[NDArray[np.float32]] = []
        hidden_size, num_rows = 0, 0
        # The centroids of all parts go to one file that is mapped: they need not fit into memory.
        path = self.folder / "centroids.bf16"
        with path.open("wb") as file:
            for folder in self.folders:
                part = load_file(folder / SENSES_FILE)
                owners.append(part["owners"].numpy())
                counts.append(part["counts"].numpy())
                spreads.append(part["spreads"].numpy())
                centroids = part["centroids"]
                hidden_size = centroids.shape[1]
                num_rows += len(centroids)
                file.write(centroids.view(torch.int16).numpy().data)
        mapped = torch.from_file(str(path), size=num_rows * hidden_size, dtype=torch.bfloat16)
        return Senses(
            owners=np.concatenate(owners),
            centroids=mapped.view(num_rows, hidden_size),
            counts=np.concatenate(counts),
            spreads=np.concatenate(spreads),
        )

    def contexts(self) -> Iterator[pa.Table]:
        """Yield the contexts of each part, with rows counted over all parts."""
        first_row = 0
        for folder in self.folders:
            table = pq.read_table(folder / CONTEXTS_FILE)
            rows = pa.array(table["row"].to_numpy() + first_row, pa.int64())
            yield table.set_column(0, SCHEMA.field("row"), rows)
            with safe_open(folder / SENSES_FILE, framework="pt") as file:
                first_row += file.get_slice("owners").get_shape()[0]

    def held_out(self, others: HeldOut | None = None) -> HeldOut:
        """Return a uniform sample of all held-out states (and `others`): the smallest hashes."""
        kept = [others] if others else []
        for folder in self.folders:
            kept = [_smallest([*kept, HeldOut(**load_file(folder / HELDOUT_FILE))])]
        return kept[0]


def _smallest(parts: list[HeldOut]) -> HeldOut:
    """Return the MAX_HELD_OUT states with the smallest hashes, sorted, each hash once."""
    tokens = torch.cat([part.tokens for part in parts])
    hashes = torch.cat([part.hashes for part in parts])
    states = torch.cat([part.states for part in parts])
    _, first = np.unique(hashes.numpy(), return_index=True)
    order = torch.from_numpy(first[:MAX_HELD_OUT])
    return HeldOut(tokens[order], hashes[order], states[order])
