"""The index on 100,000 and more senses: recall and speed after re-ranking against exact search by BLAS, and what asking it costs."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from torch import Tensor

from dskd_ds.bench.dictionaries import held_out, large_dictionary
from dskd_ds.bench.measure import Figure, interleaved_seconds
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import exact_nearest, rerank
from dskd_ds.senses.index.graph import knn, load_graph, load_projection, share_found
from dskd_ds.senses.index.service import IndexClient, IndexService
from dskd_ds.spec import RunSpec

RECALL_TARGET, SPEED_TARGET = 0.99, 5.0
QUERIES = 200
"""Sense positions of a rank's step, about."""
NUM_BLOCKS = 4
WANTED = 10


def index(spec: RunSpec) -> list[Figure]:
    """Queries are the teacher's states over held-out text, which no sense was made from."""
    dictionary = large_dictionary(spec)
    graph, projection = load_graph(dictionary), load_projection(dictionary)
    effort, threads = spec.senses.index_search_effort, torch.get_num_threads()
    text = held_out(spec, NUM_BLOCKS)
    states = text.states[text.batch.supervised]
    some = states[:: max(1, len(states) // QUERIES)][:QUERIES].contiguous()

    def search(queries: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        return rerank(
            dictionary, queries, knn(graph, projection(queries), effort, threads), WANTED
        )[0]

    exact, _ = exact_nearest(dictionary, states, np.arange(dictionary.num_token_rows), WANTED)
    recall = share_found(exact, search(states))
    rows = dictionary.senses[
        : dictionary.num_token_rows
    ].float()  # in float32 beforehand: the exact way has nothing to convert
    seconds = interleaved_seconds(
        {
            "index": lambda: search(some),
            "exact": lambda: exact_by_blas(dictionary, rows, some, WANTED),
            "graph": lambda: knn(graph, projection(some), effort, threads),
        }
    )
    asked = ask_seconds(graph, projection(some), effort, threads)
    notes = {
        "senses": len(rows),
        "queries_a_batch": len(some),
        "threads": threads,
        "dims": graph.dim,
        "search_effort": effort,
        "milliseconds": {name: round(value * 1000, 1) for name, value in seconds.items()},
    }
    return [
        Figure(
            "index_recall_at_10",
            f"share of the exact 10 nearest of {len(states)} held-out states that the index finds",
            recall,
            RECALL_TARGET,
            notes={"queries": len(states)},
        ),
        Figure(
            "index_speedup",
            "exact search (float32 product with all rows, then top-k) against the index with re-ranking",
            seconds["exact"] / seconds["index"],
            SPEED_TARGET,
            notes=notes,
        ),
        Figure(
            "index_service_ratio",
            "a search asked through the node's socket against the same search in place",
            asked["asked"] / asked["here"],
            better="lower",
            notes={"milliseconds": {name: round(value * 1000, 2) for name, value in asked.items()}},
        ),
    ]


def exact_by_blas(dictionary: SenseDictionary, rows: Tensor, queries: Tensor, keep: int) -> Tensor:
    """The usual brute force: all squared distances less |q|^2 by one product, then top-k. rows [S, D] float32."""
    distances = torch.addmm(dictionary.squared_norms[: len(rows)], queries, rows.T, alpha=-2)
    return distances.topk(keep, dim=1, largest=False).indices


def ask_seconds(
    graph: object,
    reduced: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    effort: int,
    threads: int,
) -> dict[str, float]:
    """The same searches in this process and through a service."""
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


BENCHES = {"index": index}
