"""The HNSW index over PCA-reduced senses (hnswlib), and exact re-ranking on full vectors.

The index answers in few dimensions with more candidates than wanted; the distances that decide are computed on the dictionary's
own rows. Only tokens' senses are indexed: a span has no probability of its own that a teacher could vouch for it with.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from dskd_ds.senses.dictionary.dictionary import SENSES_FILE, SenseDictionary
from dskd_ds.senses.dictionary.distances import exact_nearest, rerank
from dskd_ds.spec.senses import SensesSpec

INDEX_FOLDER = "index"
GRAPH_FILE = "graph.bin"
PCA_SAMPLE = 50_000
BUILD_ROWS = 16_384
"""Rows that are projected and inserted at a time."""


@dataclass(frozen=True)
class Projection:
    """Full vectors -> the few dimensions of the index."""

    mean: Tensor
    """[D] float32"""
    components: Tensor
    """[D, d] float32, orthonormal columns."""

    def __call__(self, vectors: Tensor) -> NDArray[np.float32]:
        """[P, D] -> [P, d]."""
        reduced: NDArray[np.float32] = ((vectors.float() - self.mean) @ self.components).numpy()
        return reduced


def fit_projection(rows: Tensor, dims: int) -> Projection:
    """Principal components of a sample of rows [S, D], by the covariance's eigenvectors (deterministic, unlike a randomised SVD)."""
    stride = max(1, len(rows) // PCA_SAMPLE)
    sample = rows[::stride].float()
    mean = sample.mean(dim=0)
    centred = (sample - mean).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return Projection(mean, vectors[:, -min(dims, rows.shape[1]) :].float().contiguous())


def ensure_index(dictionary: SenseDictionary, spec: SensesSpec, queries: Tensor) -> dict[str, Any]:
    """The facts of the dictionary's index, which is built first where it is missing, or of other senses or settings than these.

    Where only the search effort differs, its recall is measured anew. queries: as for `build_index`.
    """
    folder = dictionary.folder / INDEX_FOLDER
    settings = graph_settings(dictionary, spec)
    facts = parse_manifest(folder)[0] if (folder / MANIFEST_FILE).is_file() else {}
    if any(facts.get(name) != value for name, value in settings.items()):
        return build_index(dictionary, spec, queries)
    if facts.get("search_effort") != spec.index_search_effort:
        facts |= _measured(
            load_graph(dictionary), load_projection(dictionary), dictionary, spec, queries
        )
        write_manifest(folder, facts)
    return facts


def graph_settings(dictionary: SenseDictionary, spec: SensesSpec) -> dict[str, Any]:
    """What a graph depends on."""
    return {
        "of_senses": senses_digest(dictionary),
        "dims": min(spec.index_dims, dictionary.hidden_size),
        "links": spec.index_links,
        "build_effort": spec.index_build_effort,
    }


def build_index(dictionary: SenseDictionary, spec: SensesSpec, queries: Tensor) -> dict[str, Any]:
    """Build and store the dictionary's index. queries: [Q, D] held-out teacher states, to measure its recall with.

    Returns the facts that were stored with it.
    """
    rows = dictionary.senses[: dictionary.num_token_rows]
    projection = fit_projection(rows, spec.index_dims)
    index = hnswlib.Index(space="l2", dim=projection.components.shape[1])
    index.init_index(
        max_elements=max(1, len(rows)),
        M=spec.index_links,
        ef_construction=spec.index_build_effort,
        random_seed=0,
    )
    # One thread: the graph depends on the order of insertion, and two builds must be alike.
    with tqdm(
        total=len(rows), desc="indexing senses", unit="sense", disable=len(rows) < BUILD_ROWS
    ) as bar:
        for part in torch.arange(len(rows)).split(BUILD_ROWS):
            index.add_items(projection(rows[part]), part.numpy(), num_threads=1)
            bar.update(len(part))
    facts = {
        **graph_settings(dictionary, spec),
        "num_rows": len(rows),
        **_measured(index, projection, dictionary, spec, queries),
    }
    with atomic_folder(dictionary.folder / INDEX_FOLDER) as partial:
        index.save_index(str(partial / GRAPH_FILE))
        save_file(
            {"mean": projection.mean, "components": projection.components},
            partial / "projection.safetensors",
        )
        write_manifest(partial, facts)
    return facts


def _measured(
    index: Any,
    projection: Projection,
    dictionary: SenseDictionary,
    spec: SensesSpec,
    queries: Tensor,
) -> dict[str, Any]:
    """The search effort, and what an index finds with it."""
    return {
        "search_effort": spec.index_search_effort,
        "num_queries": len(queries),
        "recall_at_10": _recall(index, projection, dictionary, spec, queries),
    }


def _recall(
    index: Any,
    projection: Projection,
    dictionary: SenseDictionary,
    spec: SensesSpec,
    queries: Tensor,
) -> float | None:
    """Share of the exact 10 nearest that are found after re-ranking."""
    wanted = min(10, dictionary.num_token_rows)
    if not len(queries) or not wanted:
        return None
    found, _ = rerank(
        dictionary, queries, knn(index, projection(queries), spec.index_search_effort), wanted
    )
    return share_found(
        exact_nearest(dictionary, queries, np.arange(dictionary.num_token_rows), wanted)[0], found
    )


def share_found(exact: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    """Recall: which share of the entries of `exact` [Q, K] is in the same line of `found` [Q, any]."""
    return float(
        np.mean([np.isin(wanted, line).mean() for wanted, line in zip(exact, found, strict=True)])
    )


def knn(
    index: Any, reduced: NDArray[np.float32], num_candidates: int, num_threads: int = 1
) -> NDArray[np.int64]:
    """[P, d] reduced queries -> [P, num_candidates] rows (fewer columns if the index is smaller), nearest first.

    Several threads may ask at once, as long as all want the same number: hnswlib keeps its search effort in the index.
    Raises ValueError if d is not the index's: hnswlib itself would read past the end.
    """
    if reduced.ndim != 2 or reduced.shape[1] != index.dim:
        raise ValueError(f"queries of shape {reduced.shape}, the index has {index.dim} dimensions")
    number = min(num_candidates, index.get_current_count())
    index.set_ef(max(number, 10))
    rows, _ = index.knn_query(reduced, k=number, num_threads=num_threads)
    return np.asarray(rows, np.int64)


def load_projection(dictionary: SenseDictionary) -> Projection:
    """The stored projection; small, so every process has its own."""
    tensors = load_file(dictionary.folder / INDEX_FOLDER / "projection.safetensors")
    return Projection(tensors["mean"], tensors["components"])


def load_graph(dictionary: SenseDictionary) -> Any:
    """The stored graph; large, and hnswlib cannot map it, so one process of a node loads it.

    Raises InputError if it is not whole, or of another dictionary.
    """
    folder = dictionary.folder / INDEX_FOLDER
    facts = read_manifest(folder)
    if facts.get("of_senses") != senses_digest(dictionary):
        raise InputError(
            f"{folder}: this index is not of this dictionary.\n  build both again: dskd senses build SPEC.toml --force"
        )
    index = hnswlib.Index(space="l2", dim=int(facts["dims"]))
    index.load_index(str(folder / GRAPH_FILE))
    return index


def index_digest(dictionary: SenseDictionary) -> str:
    """SHA-256 of the dictionary's graph, as its manifest says."""
    return str(parse_manifest(dictionary.folder / INDEX_FOLDER)[1][GRAPH_FILE]["sha256"])


def senses_digest(dictionary: SenseDictionary) -> str:
    """SHA-256 of the dictionary's senses, as its manifest says."""
    return str(parse_manifest(dictionary.folder)[1][SENSES_FILE]["sha256"])
