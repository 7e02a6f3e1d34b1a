"""Compares the clustering's speed and inertia with a loop over scikit-learn's KMeans."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.bench.measure import Figure, interleaved_seconds
from dskd_ds.bench.states import bench_rows, quantisation_error
from dskd_ds.errors import InputError
from dskd_ds.senses.build.cluster import Points, cluster
from dskd_ds.senses.build.kmeans import MAX_ITERATIONS
from dskd_ds.senses.build.vectors import Rows
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec import RunSpec

K = 10
REPEATS = 3
CPU = torch.device("cpu")


def bench_kmeans(spec: RunSpec) -> list[Figure]:
    """Return speed and inertia over all tokens with more than K vectors, with one start each.

    Both sides use as many threads as torch has in this process. Each stops by its own rule
    (scikit-learn when the means hardly move), so neither figure means much without the other.
    Raises InputError if scikit-learn is not installed.
    """
    _check_sklearn()
    from threadpoolctl import threadpool_limits

    points = Points.of_rows(_with_many_vectors(bench_rows(spec)))
    settings = spec.senses.model_copy(
        update={"contexts_per_sense": 0, "clustering": "fixed", "num_senses": K}
    )
    per_token = _states_per_token(points)
    num_threads = torch.get_num_threads()
    with threadpool_limits(num_threads):
        seconds = interleaved_seconds(
            {
                "ours": lambda: cluster(points, settings, spec.seed, CPU),
                "loop": lambda: sklearn_centroids(per_token, spec.seed),
            },
            repeats=REPEATS,
        )
        centroids = torch.from_numpy(sklearn_centroids(per_token, spec.seed))
    owners = np.repeat(np.unique(points.tokens), K)
    # The error does not depend on the counts.
    theirs = Senses(owners, centroids, counts=np.zeros(0, np.int64))
    ours = cluster(points, settings, spec.seed, CPU)
    return [_speed(points, seconds, num_threads), _inertia(points, ours, theirs)]


def _speed(points: Points, seconds: dict[str, float], num_threads: int) -> Figure:
    return Figure(
        key="kmeans_speedup",
        what="time: loop over scikit-learn's KMeans / batched k-means",
        value=seconds["loop"] / seconds["ours"],
        target=4.0,
        notes={
            "tokens": len(np.unique(points.tokens)),
            "vectors": len(points.tokens),
            "k": K,
            "n_init": 1,
            "max_iterations": MAX_ITERATIONS,
            "threads": num_threads,
            "seconds": round(seconds["ours"], 2),
            "sklearn_seconds": round(seconds["loop"], 2),
        },
    )


def _inertia(points: Points, ours: Senses, theirs: Senses) -> Figure:
    our_error, their_error = (
        quantisation_error(senses, points.tokens, points.states) for senses in (ours, theirs)
    )
    return Figure(
        key="kmeans_inertia_ratio",
        what="squared error over all tokens: batched k-means / scikit-learn",
        value=our_error / their_error,
        target=1.001,
        better="lower",
    )


def _check_sklearn() -> None:
    """Raise InputError if scikit-learn is not installed."""
    if find_spec("sklearn") is None:
        raise InputError(
            "bench kmeans compares with scikit-learn, which is not installed.\n"
            "  pip install scikit-learn, or name other benches: --only NAME."
        )


def sklearn_centroids(per_token: list[NDArray[np.float32]], seed: int) -> NDArray[Any]:
    """Return scikit-learn's K centroids for each token's states, concatenated."""
    from sklearn.cluster import KMeans

    centroids = []
    for states in per_token:
        kmeans = KMeans(K, n_init=1, max_iter=MAX_ITERATIONS, random_state=seed)
        centroids.append(kmeans.fit(states).cluster_centers_)
    return np.concatenate(centroids)


def _with_many_vectors(rows: Rows) -> Rows:
    """Return the rows of tokens with more than K vectors."""
    _, inverse, counts = np.unique(rows["token"], return_inverse=True, return_counts=True)
    return rows[counts[inverse] > K]


def _states_per_token(points: Points) -> list[NDArray[np.float32]]:
    """Return the states [M, D] of each token as float32."""
    _, starts = np.unique(points.tokens, return_index=True)
    chunks = torch.tensor_split(points.states, starts[1:].tolist())
    return [chunk.float().numpy() for chunk in chunks]


BENCHES: dict[str, Callable[[RunSpec], list[Figure]]] = {"kmeans": bench_kmeans}
