"""Clustering: speed and inertia against a scikit-learn loop, and what a number of senses that follows polysemy saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.bench.measure import Figure, interleaved_seconds
from dskd_ds.bench.states import bench_rows, heldout_error, quantisation_error, split
from dskd_ds.errors import InputError
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.build.cluster import Points, cluster
from dskd_ds.senses.build.kmeans import MAX_ITERATIONS
from dskd_ds.senses.build.vectors import Rows
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.intrinsic.ranks import spearman
from dskd_ds.spec import RunSpec
from dskd_ds.spec.senses import SensesSpec

K = 10
COSTS = (0.5, 1.0, 2.0, 4.0)
"""sense_cost values among which the fewest rows at the error of fixed k are looked for."""
MIN_VECTORS = 20
"""Tokens with fewer vectors say nothing about polysemy."""
CPU = torch.device("cpu")


def bench_kmeans(spec: RunSpec) -> list[Figure]:
    """All tokens with more than K vectors, one start each, as many threads for both as torch has here. Needs scikit-learn.

    Each stops by its own rule (scikit-learn when the means hardly move), so the two figures belong together.
    """
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise InputError(
            "bench kmeans: scikit-learn is not installed, so there is nothing to compare with.\n"
            "  pip install 'dskd-ds[bench]'"
        ) from None
    points = Points.of_rows(_many(bench_rows(spec)))
    _, starts = np.unique(points.tokens, return_index=True)
    singles = [
        part.float().numpy() for part in torch.tensor_split(points.states, starts[1:].tolist())
    ]
    ours = _settings(spec, clustering="fixed", num_senses=K)

    def loop() -> NDArray[Any]:
        return np.concatenate(
            [
                KMeans(K, n_init=1, max_iter=MAX_ITERATIONS, random_state=spec.seed)
                .fit(part)
                .cluster_centers_
                for part in singles
            ]
        )

    threads = torch.get_num_threads()
    with threadpool_limits(threads):
        seconds = interleaved_seconds(
            {"ours": lambda: cluster(points, ours, spec.seed, CPU), "loop": loop}, repeats=3
        )
        theirs = Senses(
            np.repeat(np.unique(points.tokens), K), torch.from_numpy(loop()), np.zeros(0, np.int64)
        )
    mine = cluster(points, ours, spec.seed, CPU)
    inertias = [
        quantisation_error(senses, points.tokens, points.states) for senses in (mine, theirs)
    ]
    notes = {
        "tokens": len(singles),
        "vectors": len(points.tokens),
        "k": K,
        "n_init": 1,
        "max_iterations": MAX_ITERATIONS,
        "threads": threads,
        "seconds": round(seconds["ours"], 2),
        "sklearn_seconds": round(seconds["loop"], 2),
    }
    return [
        Figure(
            "kmeans_speedup",
            "batched k-means against a loop of scikit-learn's KMeans",
            seconds["loop"] / seconds["ours"],
            4.0,
            notes=notes,
        ),
        Figure(
            "kmeans_inertia_ratio",
            "squared error of ours against theirs, over all tokens",
            inertias[0] / inertias[1],
            1.001,
            "lower",
        ),
    ]


def bench_adaptive(spec: RunSpec) -> list[Figure]:
    """Rows that adaptive clustering needs for the held-out error of K senses for each token; and whether they follow WordNet."""
    kept, held_out = split(bench_rows(spec))
    points = Points.of_rows(kept)
    fixed = cluster(points, _settings(spec, clustering="fixed", num_senses=K), spec.seed, CPU)
    wanted = heldout_error(fixed, held_out)
    tried = {}
    for cost in sorted({*COSTS, spec.senses.sense_cost}):
        senses = cluster(
            points, _settings(spec, clustering="adaptive", sense_cost=cost), spec.seed, CPU
        )
        tried[cost] = (len(senses.owners), heldout_error(senses, held_out), senses)
    equal = [rows for rows, error, _ in tried.values() if error <= wanted]
    notes = {
        "fixed": f"{len(fixed.owners)} rows, held-out error {wanted:.4f}",
        "vectors": len(kept),
        "heldout": len(held_out),
    } | {
        f"sense_cost {cost:g}": f"{rows} rows, held-out error {error:.4f}"
        for cost, (rows, error, _) in tried.items()
    }
    figures = [
        Figure(
            "adaptive_rows_ratio",
            f"rows of adaptive against fixed k = {K}, at no more held-out error",
            min(equal, default=np.inf) / len(fixed.owners),
            0.7,
            "lower",
            notes,
        )
    ]
    chosen = tried[spec.senses.sense_cost][2]
    if wordnet := [source.path for source in spec.senses.lexicons if source.kind == "wordnet"]:
        figures.append(_polysemy(spec, chosen, points, Path(wordnet[0])))
    return figures


def _polysemy(spec: RunSpec, senses: Senses, points: Points, wordnet: Path) -> Figure:
    """Spearman's correlation of a token's number of senses with WordNet's for its word."""
    known = wordnet_sense_counts(wordnet)
    tokenizer = NamedModel.of_teacher(spec.teacher).tokenizer
    tokens, vectors = np.unique(points.tokens, return_counts=True)
    texts = [tokenizer.decode([token]) for token in tokens]
    usable = [
        i
        for i, text in enumerate(texts)
        if vectors[i] >= MIN_VECTORS and text.startswith(" ") and text.strip().lower() in known
    ]
    ours = np.bincount(senses.owners, minlength=int(tokens.max()) + 1)[tokens[usable]].astype(float)
    theirs = np.array([known[texts[i].strip().lower()] for i in usable], dtype=float)
    return Figure(
        "polysemy_spearman",
        "a word's number of senses here and in WordNet",
        spearman(ours, theirs),
        notes={
            "words": len(usable),
            "with their number of vectors instead": round(
                spearman(vectors[usable].astype(float), theirs), 3
            ),
        },
    )


def wordnet_sense_counts(folder: Path) -> dict[str, int]:
    """Word -> its number of synsets over all parts of speech, from the index files (wndb(5WN): lemma, part of speech, synset count)."""
    counts: dict[str, int] = {}
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"index.{part}").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):
                word, _, number, *_ = line.split(" ")
                counts[word] = counts.get(word, 0) + int(number)
    return counts


def _many(rows: Rows) -> Rows:
    """Those of tokens with more than K vectors."""
    _, inverse, counts = np.unique(rows["token"], return_inverse=True, return_counts=True)
    return rows[counts[inverse] > K]


def _settings(spec: RunSpec, **changes: Any) -> SensesSpec:
    return spec.senses.model_copy(update={"contexts_per_sense": 0, **changes})


BENCHES: dict[str, Callable[[RunSpec], list[Figure]]] = {
    "kmeans": bench_kmeans,
    "adaptive": bench_adaptive,
}
