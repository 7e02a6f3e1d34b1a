"""A small dictionary, batches and teacher signals for the tests of choosing senses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dskd_ds.data.batches import Batch, Sample, make_batch
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.losses.distributions import TopK
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.choose.selection import Selection
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.senses.index.graph import build_index, knn, load_graph, load_projection
from dskd_ds.signals.parts.top_k import take_top_k
from dskd_ds.spec.loss import LossSpec
from dskd_ds.spec.senses import SensesSpec

V, D, PER_TOKEN = 40, 16, 3
BLOCK_TOKENS = 30
DEFAULTS: dict[str, Any] = {
    "dictionary": "-",
    "kappa": 2,
    "min_positions": 4,
    "index_dims": 8,
    "index_search_effort": 100,
    "num_neighbours": 30,
    "candidates": "lexical",
}


def spec(**settings: Any) -> SensesSpec:
    """Return settings that suit a dictionary of this size, and some others."""
    return SensesSpec(**(DEFAULTS | settings))


def dictionary_in(folder: Path, layer: int = -1, seed: int = 0) -> SenseDictionary:
    """Write random senses of every token, with relations and an index; return the dictionary."""
    senses = Senses(
        np.repeat(np.arange(V), PER_TOKEN),
        torch.randn(V * PER_TOKEN, D, generator=torch.Generator().manual_seed(seed)),
        np.arange(V * PER_TOKEN) % 4 + 1,
        np.linspace(0.1, 0.9, V * PER_TOKEN, dtype=np.float32),
    )
    synonyms = {token: [token + 1, V] for token in range(10)}
    antonyms = {token: [token + 20] for token in range(8)}
    write_dictionary(
        folder,
        senses=senses,
        relations=TokenRelations(synonyms, antonyms, [(3, 4)]),
        facts={
            "vocab_size": V,
            "layer": layer,
            "teacher": "t",
            "tokenizer": "z",
            "sinks_left_out": layer != -1,
        },
        num_senses=PER_TOKEN,
    )
    opened = open_dictionary(folder)
    build_index(opened, spec(), torch.randn(4, D))
    return opened


def batch(seed: int = 0, blocks: int = 2) -> Batch:
    """Return blocks of random tokens, of two texts each."""
    draw = np.random.default_rng(seed)
    rows: list[Any] = []
    for _ in range(blocks):
        ids = draw.integers(0, V, BLOCK_TOKENS).tolist()
        rows.append({"input_ids": ids, "segment_starts": [0, 13], "unsupervised": []})
    return make_batch(rows, [Sample(0, block) for block in range(blocks)])


def teacher_signal(selection: Selection, seed: int = 0) -> tuple[torch.Tensor, TopK]:
    """Return random states [P, D], and the top 8 of random logits, at the selected positions."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(selection), D, generator=generator)
    logits = torch.randn(len(selection), V, generator=generator) * 2
    return hidden, take_top_k(logits, 8, (1.0,))


def retriever(
    dictionary: SenseDictionary, settings: SensesSpec, loss: LossSpec | None = None
) -> SenseRetriever:
    """Return a retriever that searches the dictionary's index."""
    graph, projection = load_graph(dictionary), load_projection(dictionary)
    return SenseRetriever(
        dictionary=dictionary,
        spec=settings,
        loss=loss or LossSpec(),
        seed=0,
        projection=projection,
        search=lambda queries, count: knn(graph, queries, count),
    )
