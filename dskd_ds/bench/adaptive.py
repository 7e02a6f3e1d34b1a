"""Measures what adaptive numbers of senses save, and whether they follow polysemy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dskd_ds.bench.measure import Figure
from dskd_ds.bench.states import bench_rows, heldout_error, split
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.build.cluster import Points, cluster
from dskd_ds.senses.build.vectors import Rows
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.intrinsic.ranks import spearman
from dskd_ds.spec import RunSpec

K = 10
COSTS = (0.5, 1.0, 2.0, 4.0)
"""Values of sense_cost that are tried, besides the spec's own."""
MIN_VECTORS = 20
"""Tokens with fewer vectors are left out of the comparison with WordNet: they show no polysemy."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Clustered:
    """Senses and their error on held-out states."""

    senses: Senses
    error: float

    @property
    def num_rows(self) -> int:
        """Number of senses."""
        return len(self.senses.owners)

    def __str__(self) -> str:
        return f"{self.num_rows} rows, held-out error {self.error:.4f}"


def bench_adaptive(spec: RunSpec) -> list[Figure]:
    """Return the ratio of the rows that adaptive clustering needs to those of K senses per token.

    Settings count whose held-out error is not above that of K senses per token. If the spec has
    WordNet among its lexicons, also return how well the numbers of senses agree with it.
    """
    kept, held_out = split(bench_rows(spec))
    points = Points.of_rows(kept)
    fixed = _clustered(points, held_out, spec, clustering="fixed", num_senses=K)
    by_cost = {
        cost: _clustered(points, held_out, spec, clustering="adaptive", sense_cost=cost)
        for cost in sorted({*COSTS, spec.senses.sense_cost})
    }
    # If no cost reaches the error of the fixed number, the ratio is infinite and the target missed.
    good_enough = [tried.num_rows for tried in by_cost.values() if tried.error <= fixed.error]
    fewest_rows = min(good_enough, default=np.inf)
    notes: dict[str, Any] = {"fixed": str(fixed), "vectors": len(kept), "heldout": len(held_out)}
    notes |= {f"sense_cost {cost:g}": str(tried) for cost, tried in by_cost.items()}
    figures = [
        Figure(
            key="adaptive_rows_ratio",
            what=f"rows: adaptive / fixed k = {K}, at no more held-out error",
            value=fewest_rows / fixed.num_rows,
            target=0.7,
            better="lower",
            notes=notes,
        )
    ]
    wordnet = [source.files[0] for source in spec.senses.lexicons if source.kind == "wordnet"]
    if wordnet:
        senses = by_cost[spec.senses.sense_cost].senses
        figures.append(_polysemy(spec, senses, points, Path(wordnet[0])))
    return figures


def _clustered(points: Points, held_out: Rows, spec: RunSpec, **changes: Any) -> Clustered:
    """Cluster points with changes to the spec's [senses], and measure the held-out error."""
    # The benches look at centroids only, so no contexts are chosen.
    settings = spec.senses.model_copy(update={"contexts_per_sense": 0, **changes})
    senses = cluster(points, settings, spec.seed, CPU)
    return Clustered(senses, heldout_error(senses, held_out))


def _polysemy(spec: RunSpec, senses: Senses, points: Points, wordnet: Path) -> Figure:
    """Return Spearman's correlation of a token's number of senses with WordNet's for its word."""
    known = wordnet_sense_counts(wordnet)
    tokenizer = NamedModel.of_teacher(spec.teacher).tokenizer
    tokens, num_vectors = np.unique(points.tokens, return_counts=True)
    texts = [tokenizer.decode([token]) for token in tokens]
    words = [text.strip().lower() for text in texts]
    # A token without a space before it may be a piece of a longer word.
    begins_word = [text.startswith(" ") for text in texts]
    usable = [
        index
        for index, word in enumerate(words)
        if num_vectors[index] >= MIN_VECTORS and begins_word[index] and word in known
    ]
    num_senses = np.bincount(senses.owners, minlength=int(tokens.max()) + 1)
    ours = num_senses[tokens[usable]].astype(float)
    theirs = np.array([known[words[index]] for index in usable], dtype=float)
    # The baseline: how well the numbers of vectors agree with WordNet without any clustering.
    by_vectors = spearman(num_vectors[usable].astype(float), theirs)
    return Figure(
        key="polysemy_spearman",
        what="rank correlation of a word's number of senses here and in WordNet",
        value=spearman(ours, theirs),
        notes={
            "words": len(usable),
            "with their number of vectors instead": round(by_vectors, 3),
        },
    )


def wordnet_sense_counts(folder: Path) -> dict[str, int]:
    """Return each word's number of synsets over all parts of speech, from WordNet's index files.

    Format: wndb(5WN), whose lines hold lemma, part of speech, synset count, and more.
    """
    counts: dict[str, int] = {}
    for part_of_speech in ("noun", "verb", "adj", "adv"):
        text = (folder / f"index.{part_of_speech}").read_text(encoding="utf-8")
        for line in text.splitlines():
            # Lines of the licence at the top start with a space.
            if not line.startswith(" "):
                word, _, num_synsets, *_ = line.split(" ")
                counts[word] = counts.get(word, 0) + int(num_synsets)
    return counts


BENCHES: dict[str, Callable[[RunSpec], list[Figure]]] = {"adaptive": bench_adaptive}
