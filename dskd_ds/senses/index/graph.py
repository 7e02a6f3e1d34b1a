"""Builds and searches the HNSW index (hnswlib) over PCA-reduced senses.

The index searches in few dimensions and returns more candidates than needed; the distances that
decide are then computed on the dictionary's full rows. Only the senses of tokens are indexed: the
teacher gives no probability for a span, so a span could not be accepted as a neighbour.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_folder
from dskd_ds.files.manifest import MANIFEST_FILE, parse_manifest, read_manifest, write_manifest
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import exact_nearest, rerank
from dskd_ds.senses.dictionary.facts import SENSES_FILE
from dskd_ds.spec.senses import SensesSpec

INDEX_FOLDER = "index"
GRAPH_FILE = "graph.bin"
PROJECTION_FILE = "projection.safetensors"
PCA_SAMPLE = 50_000
"""At most about this many rows (up to twice as many) are read to fit the projection."""
BUILD_ROWS = 16_384
"""Rows that are projected and inserted at a time."""


@dataclass(frozen=True)
class Projection:
    """Maps full vectors to the few dimensions of the index."""

    mean: Tensor
    """[D] float32"""
    components: Tensor
    """[D, d] float32, orthonormal columns."""

    def __call__(self, vectors: Tensor) -> NDArray[np.float32]:
        """Project vectors [P, D]; returns [P, d]."""
        reduced: NDArray[np.float32] = ((vectors.float() - self.mean) @ self.components).numpy()
        return reduced


def fit_projection(rows: Tensor, dims: int) -> Projection:
    """Return the first `dims` principal components of a sample of rows [S, D].

    They are eigenvectors of the covariance, because a randomised SVD is not deterministic.
    """
    stride = max(1, len(rows) // PCA_SAMPLE)
    sample = rows[::stride].float()
    mean = sample.mean(dim=0)
    centred = (sample - mean).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    # eigh sorts eigenvalues in ascending order, so the last columns have the largest variance.
    components = vectors[:, -min(dims, rows.shape[1]) :]
    return Projection(mean, components.float().contiguous())


def ensure_index(dictionary: SenseDictionary, spec: SensesSpec, queries: Tensor) -> dict[str, Any]:
    """Return the facts of the dictionary's index, after building the index if necessary.

    It is built if it is missing, or was built from other senses or with other settings. If only the
    search effort differs, the recall is measured again. queries: as for `build_index`.
    """
    folder = dictionary.folder / INDEX_FOLDER
    settings = graph_settings(dictionary, spec)
    # Only the manifest is read here; load_graph compares the digests of the files.
    facts = parse_manifest(folder)[0] if (folder / MANIFEST_FILE).is_file() else {}
    if any(facts.get(name) != value for name, value in settings.items()):
        return build_index(dictionary, spec, queries)
    if facts.get("search_effort") != spec.index_search_effort:
        graph, projection = load_graph(dictionary), load_projection(dictionary)
        facts |= _search_facts(graph, projection, dictionary=dictionary, spec=spec, queries=queries)
        write_manifest(folder, facts)
    return facts


def graph_settings(dictionary: SenseDictionary, spec: SensesSpec) -> dict[str, Any]:
    """Return the facts that decide the graph's content; if one changes, the graph is rebuilt."""
    return {
        "of_senses": senses_digest(dictionary),
        "dims": min(spec.index_dims, dictionary.hidden_size),
        "links": spec.index_links,
        "build_effort": spec.index_build_effort,
    }


def build_index(dictionary: SenseDictionary, spec: SensesSpec, queries: Tensor) -> dict[str, Any]:
    """Build and store the dictionary's index; returns the facts stored with it.

    queries: [Q, D] held-out teacher states, to measure the recall with.
    """
    rows = dictionary.senses[: dictionary.num_token_rows]
    projection = fit_projection(rows, spec.index_dims)
    graph = _build_graph(rows, projection, spec)
    search_facts = _search_facts(
        graph, projection, dictionary=dictionary, spec=spec, queries=queries
    )
    facts = {
        **graph_settings(dictionary, spec),
        "num_rows": len(rows),
        **search_facts,
    }
    matrices = {"mean": projection.mean, "components": projection.components}
    with atomic_folder(dictionary.folder / INDEX_FOLDER) as partial:
        _save(graph, partial / GRAPH_FILE)
        save_file(matrices, partial / PROJECTION_FILE)
        write_manifest(partial, facts)
    return facts


def _build_graph(rows: Tensor, projection: Projection, spec: SensesSpec) -> Any:
    """Return an hnswlib graph of rows [S, D], projected."""
    graph = hnswlib.Index(space="l2", dim=projection.components.shape[1])
    graph.init_index(
        max_elements=max(1, len(rows)),
        M=spec.index_links,
        ef_construction=spec.index_build_effort,
        random_seed=0,
    )
    progress = tqdm(
        total=len(rows), desc="indexing senses", unit="sense", disable=len(rows) < BUILD_ROWS
    )
    # One thread: the graph depends on the order of insertion, and two builds must give equal bytes.
    with progress:
        for chunk in torch.arange(len(rows)).split(BUILD_ROWS):
            graph.add_items(projection(rows[chunk]), chunk.numpy(), num_threads=1)
            progress.update(len(chunk))
    return graph


def _save(graph: Any, path: Path) -> None:
    """Write a graph. Raises OSError if the disk is full, which hnswlib does not notice."""
    graph.save_index(str(path))
    if path.stat().st_size < graph.index_file_size():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _search_facts(
    graph: Any,
    projection: Projection,
    dictionary: SenseDictionary,
    spec: SensesSpec,
    queries: Tensor,
) -> dict[str, Any]:
    """Return the search effort and the recall measured with it."""
    recall = _recall(graph, projection, dictionary=dictionary, spec=spec, queries=queries)
    return {
        "search_effort": spec.index_search_effort,
        "num_queries": len(queries),
        "recall_at_10": recall,
    }


def _recall(
    graph: Any,
    projection: Projection,
    dictionary: SenseDictionary,
    spec: SensesSpec,
    queries: Tensor,
) -> float | None:
    """Return the share of the exact 10 nearest rows that are found after re-ranking."""
    num_rows = dictionary.num_token_rows
    keep = min(10, num_rows)
    if not len(queries) or not keep:
        return None
    candidates = knn(graph, projection(queries), spec.index_search_effort)
    found, _ = rerank(dictionary, queries, candidates=candidates, keep=keep)
    exact, _ = exact_nearest(dictionary, queries, among=np.arange(num_rows), keep=keep)
    return share_found(exact, found)


def share_found(exact: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    """Return the recall: the share of the entries of `exact` [Q, K] in the same line of `found`.

    found: [Q, any number].
    """
    shares = [
        np.isin(exact_line, found_line).mean()
        for exact_line, found_line in zip(exact, found, strict=True)
    ]
    return float(np.mean(shares))


def knn(
    index: Any, reduced: NDArray[np.float32], num_candidates: int, num_threads: int = 1
) -> NDArray[np.int64]:
    """Search for reduced queries [P, d]; returns rows [P, num_candidates] in no certain order.

    If the index has no more rows than that, all of them are returned without a search: a graph with
    few links may not reach each row. Several threads may search at the same time only with equal
    num_candidates, because hnswlib stores its search effort in the index.
    Raises ValueError if d is not the index's dimension; hnswlib itself would read past the end.
    """
    if reduced.ndim != 2 or reduced.shape[1] != index.dim:
        raise ValueError(f"queries of shape {reduced.shape}, the index has {index.dim} dimensions")
    num_rows = index.get_current_count()
    if num_rows <= num_candidates:
        return np.tile(np.arange(num_rows), (len(reduced), 1))
    index.set_ef(max(num_candidates, 10))
    rows, _ = index.knn_query(reduced, k=num_candidates, num_threads=num_threads)
    return np.asarray(rows, np.int64)


def load_projection(dictionary: SenseDictionary) -> Projection:
    """Return the stored projection. It is small, so every process loads its own."""
    tensors = load_file(dictionary.folder / INDEX_FOLDER / PROJECTION_FILE)
    return Projection(tensors["mean"], tensors["components"])


def load_graph(dictionary: SenseDictionary) -> Any:
    """Return the stored graph. It is large and cannot be mapped, so one process per node loads it.

    Raises InputError if the index is damaged or was built from another dictionary.
    """
    folder = dictionary.folder / INDEX_FOLDER
    facts = read_manifest(folder)
    if facts.get("of_senses") != senses_digest(dictionary):
        raise InputError(
            f"{folder}: this index was built from another dictionary.\n"
            "  build both again: dskd senses build SPEC.toml --force"
        )
    graph = hnswlib.Index(space="l2", dim=int(facts["dims"]))
    graph.load_index(str(folder / GRAPH_FILE))
    return graph


def index_digest(dictionary: SenseDictionary) -> str:
    """Return the SHA-256 of the dictionary's graph, as its manifest records it."""
    return str(parse_manifest(dictionary.folder / INDEX_FOLDER)[1][GRAPH_FILE]["sha256"])


def senses_digest(dictionary: SenseDictionary) -> str:
    """Return the SHA-256 of the dictionary's senses, as its manifest records it."""
    return str(parse_manifest(dictionary.folder)[1][SENSES_FILE]["sha256"])
