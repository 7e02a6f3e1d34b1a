"""Measures the index on 100,000 or more senses.

Recall and speed, with re-ranking, are compared with an exact search by BLAS. A search through the
node's socket is compared with the same search in this process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dskd_ds.bench.dictionaries import held_out, large_dictionary
from dskd_ds.bench.measure import Figure, interleaved_seconds
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import exact_nearest, rerank
from dskd_ds.senses.index.graph import (
    Projection,
    knn,
    load_graph,
    load_projection,
    share_found,
)
from dskd_ds.senses.index.service import IndexClient, IndexService
from dskd_ds.spec import RunSpec

RECALL_TARGET, SPEED_TARGET = 0.99, 5.0
NUM_QUERIES = 200
"""About as many as a rank has sense positions in a step."""
NUM_BLOCKS = 4
KEEP = 10
"""Number of nearest senses that a search returns."""

Rows = np.ndarray[tuple[int, int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Searched:
    """A dictionary with its index, and the settings of a search."""

    dictionary: SenseDictionary
    graph: Any
    projection: Projection
    effort: int
    num_threads: int

    def candidates(self, queries: Tensor) -> Rows:
        """Search the graph for queries [Q, D] and return the candidate rows."""
        return knn(self.graph, self.projection(queries), self.effort, self.num_threads)

    def search(self, queries: Tensor) -> Rows:
        """Search for queries [Q, D], re-rank, and return rows [Q, KEEP]."""
        return rerank(self.dictionary, queries, self.candidates(queries), KEEP)[0]


def bench_index(spec: RunSpec) -> list[Figure]:
    """Return the index's recall and speed, and the cost of the service.

    Queries are the teacher's states on held-out text, from which no sense was made.
    """
    dictionary = large_dictionary(spec)
    searched = Searched(
        dictionary=dictionary,
        graph=load_graph(dictionary),
        projection=load_projection(dictionary),
        effort=spec.senses.index_search_effort,
        num_threads=torch.get_num_threads(),  # as many as the exact search has
    )
    text = held_out(spec, NUM_BLOCKS)
    states = text.states[text.batch.supervised]
    # The queries are spread over all blocks.
    stride = max(1, len(states) // NUM_QUERIES)
    queries = states[::stride][:NUM_QUERIES].contiguous()
    return [_recall(searched, states), _speed(searched, queries), _service(searched, queries)]


def _recall(searched: Searched, states: Tensor) -> Figure:
    dictionary = searched.dictionary
    exact, _ = exact_nearest(dictionary, states, np.arange(dictionary.num_token_rows), KEEP)
    return Figure(
        key="index_recall_at_10",
        what=f"share of the exact 10 nearest of {len(states)} held-out states that is found",
        value=share_found(exact, searched.search(states)),
        target=RECALL_TARGET,
        notes={"queries": len(states)},
    )


def _speed(searched: Searched, queries: Tensor) -> Figure:
    dictionary = searched.dictionary
    # Converted to float32 here, so that the exact search does not pay for the conversion.
    rows = dictionary.senses[: dictionary.num_token_rows].float()
    seconds = interleaved_seconds(
        {
            "index": lambda: searched.search(queries),
            "exact": lambda: exact_by_blas(dictionary, rows, queries, KEEP),
            "graph": lambda: searched.candidates(queries),
        }
    )
    return Figure(
        key="index_speedup",
        what="time: exact search (one float32 product, top-k) / index with re-ranking",
        value=seconds["exact"] / seconds["index"],
        target=SPEED_TARGET,
        notes={
            "senses": len(rows),
            "queries_a_batch": len(queries),
            "threads": searched.num_threads,
            "dims": searched.graph.dim,
            "search_effort": searched.effort,
            "milliseconds": {name: round(value * 1000, 1) for name, value in seconds.items()},
        },
    )


def _service(searched: Searched, queries: Tensor) -> Figure:
    reduced = searched.projection(queries)
    # Both sides get projected queries, so that only the way through the socket differs.
    seconds = time_service(searched.graph, reduced, searched.effort, searched.num_threads)
    return Figure(
        key="index_service_ratio",
        what="time: a search through the node's socket / the same search in the process",
        value=seconds["asked"] / seconds["here"],
        better="lower",
        notes={"milliseconds": {name: round(value * 1000, 2) for name, value in seconds.items()}},
    )


def exact_by_blas(dictionary: SenseDictionary, rows: Tensor, queries: Tensor, keep: int) -> Tensor:
    """Return the `keep` nearest of rows [S, D] float32 by brute force: one product, then top-k.

    |q|^2 is left out of the squared distances, because it is the same for all rows.
    """
    distances = torch.addmm(dictionary.squared_norms[: len(rows)], queries, rows.T, alpha=-2)
    return distances.topk(keep, dim=1, largest=False).indices


def time_service(
    graph: object,
    reduced: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    effort: int,
    threads: int,
) -> dict[str, float]:
    """Return the seconds of the same searches in this process and through a service."""
    with tempfile.TemporaryDirectory() as folder:
        service = IndexService(f"ipc://{folder}/bench.index", graph, threads_per_search=threads)
        client = IndexClient(f"ipc://{folder}/bench.index")
        seconds = interleaved_seconds(
            {
                "here": lambda: knn(graph, reduced, effort, threads),
                "asked": lambda: client.search(reduced, effort),
            }
        )
        client.close()
        service.close()
    return seconds


BENCHES: dict[str, Callable[[RunSpec], list[Figure]]] = {"index": bench_index}
