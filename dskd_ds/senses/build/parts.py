"""Clustering a collection bucket by bucket, each by one rank, and putting the results together; nobody holds all of it."""

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
from dskd_ds.senses.build.refresh import old_points, refreshed
from dskd_ds.senses.build.spill import Collected, Layout
from dskd_ds.senses.build.vectors import Rows, is_held_out, states_of
from dskd_ds.senses.dictionary.contexts import (
    CONTEXTS_FILE,
    SCHEMA,
    Context,
    contexts_table,
    snippets,
)
from dskd_ds.senses.dictionary.dictionary import HELDOUT_FILE, SENSES_FILE, HeldOut, SenseDictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec import RunSpec

MAX_HELD_OUT = 4096
"""Held-out states that are stored with a dictionary."""


def cluster_parts(
    collected: Collected,
    spec: RunSpec,
    tokenizer: Any,
    blocks: Blocks,
    folder: Path,
    comm: Communicator,
    old: SenseDictionary | None = None,
) -> None:
    """Cluster every bucket into a part of its own below `folder`; parts that are there already stay. old: what is refreshed."""
    folder.mkdir(parents=True, exist_ok=True)
    buckets = collected.buckets
    if old:
        owners = old.row_owners[: old.num_token_rows]
        buckets = sorted({*buckets, *np.unique(owners // collected.layout.bucket_tokens).tolist()})
    for bucket in tqdm(
        buckets[comm.rank :: comm.size],
        desc=f"clustering on {comm.size} ranks",
        unit="range",
        disable=comm.rank > 0,
    ):
        target = folder / f"{bucket:06d}"
        if target.is_dir():
            continue
        rows = collected.rows(bucket)
        held_out = is_held_out(rows)
        senses = cluster_bucket(rows[~held_out], spec, bucket, collected.layout, old)
        with atomic_folder(target) as partial:
            _write_part(partial, senses, rows[held_out])
            texts = contexts_of(senses, blocks, spec, tokenizer, old)
            pq.write_table(texts, partial / CONTEXTS_FILE)
    comm.barrier()


def cluster_bucket(
    rows: Rows, spec: RunSpec, bucket: int, layout: Layout, old: SenseDictionary | None
) -> Senses:
    """The senses of a bucket's tokens, from their new vectors and, in a refresh, their old senses."""
    points = Points.of_rows(rows)
    if old is None:
        return cluster(points, spec.senses, spec.seed, local_device())
    first = bucket * layout.bucket_tokens
    before = old_points(old, first, min(first + layout.bucket_tokens, layout.vocab_size))
    return refreshed(before, points, spec.senses, spec.seed, local_device())


def contexts_of(
    senses: Senses, blocks: Blocks, spec: RunSpec, tokenizer: Any, old: SenseDictionary | None
) -> pa.Table:
    """The text snippets of each sense; rows count from 0 within these senses."""
    wanted = spec.senses.contexts_per_sense
    sources = (
        np.concatenate([*senses.sources, np.zeros(0, np.int64)])
        if wanted
        else np.zeros(0, np.int64)
    )
    places = sources[sources >= 0]
    found = dict(
        zip(
            places.tolist(),
            snippets(blocks, places, spec.data.block_tokens, tokenizer),
            strict=True,
        )
    )
    earlier = old.contexts_of((-1 - sources[sources < 0]).tolist()) if old else {}
    rows: list[int] = []
    ranks: list[int] = []
    contexts: list[Context] = []
    for row, near in enumerate(senses.sources if wanted else ()):
        texts = [
            text
            for source in near.tolist()
            for text in ([found[source]] if source >= 0 else earlier[-1 - source])
        ][:wanted]
        rows += [row] * len(texts)
        ranks += range(len(texts))
        contexts += texts
    return contexts_table(rows, ranks, contexts)


def _write_part(folder: Path, senses: Senses, held_out: Rows) -> None:
    assert senses.spreads is not None
    save_file(
        {
            "owners": torch.from_numpy(senses.owners),
            "centroids": senses.centroids.to(torch.bfloat16).contiguous(),
            "counts": torch.from_numpy(senses.counts),
            "spreads": torch.from_numpy(senses.spreads),
        },
        folder / SENSES_FILE,
    )
    save_file(vars(held_out_of(held_out)), folder / HELDOUT_FILE)


def held_out_of(rows: Rows) -> HeldOut:
    """Records -> held-out states."""
    return HeldOut(
        torch.from_numpy(rows["token"].copy()),
        torch.from_numpy(rows["hash"].copy()),
        states_of(rows),
    )


@dataclass(frozen=True)
class Parts:
    """All parts of a clustering, as one."""

    folder: Path

    @property
    def folders(self) -> list[Path]:
        """In order of their tokens."""
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and not path.suffix)

    def senses(self) -> Senses:
        """All senses; the centroids lie in a file beside the parts and are mapped."""
        columns: dict[str, list[NDArray[Any]]] = {"owners": [], "counts": [], "spreads": []}
        path, hidden_size, num_rows = self.folder / "centroids.bf16", 0, 0
        with path.open("wb") as file:
            for folder in self.folders:
                part = load_file(folder / SENSES_FILE)
                for name, column in columns.items():
                    column.append(part[name].numpy())
                hidden_size, num_rows = (
                    part["centroids"].shape[1],
                    num_rows + len(part["centroids"]),
                )
                part["centroids"].view(torch.int16).numpy().tofile(file)
        mapped = torch.from_file(str(path), size=num_rows * hidden_size, dtype=torch.bfloat16)
        owners, counts, spreads = (np.concatenate(column) for column in columns.values())
        return Senses(owners, mapped.view(num_rows, hidden_size), counts, spreads)

    def contexts(self) -> Iterator[pa.Table]:
        """The contexts, with rows of the whole."""
        first = 0
        for folder in self.folders:
            table = pq.read_table(folder / CONTEXTS_FILE)
            yield table.set_column(
                0, SCHEMA.field("row"), pa.array(table["row"].to_numpy() + first, pa.int64())
            )
            with safe_open(folder / SENSES_FILE, framework="pt") as file:
                first += file.get_slice("owners").get_shape()[0]

    def held_out(self, others: HeldOut | None = None) -> HeldOut:
        """A uniform sample of all held-out states (and of others), those with the smallest hashes."""
        kept = [others] if others else []
        for folder in self.folders:
            kept = [_smallest([*kept, HeldOut(**load_file(folder / HELDOUT_FILE))])]
        return kept[0]


def _smallest(parts: list[HeldOut]) -> HeldOut:
    tokens, hashes, states = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("tokens", "hashes", "states")
    )
    _, first = np.unique(hashes.numpy(), return_index=True)  # sorted, each once
    order = torch.from_numpy(first[:MAX_HELD_OUT])
    return HeldOut(tokens[order], hashes[order], states[order])
