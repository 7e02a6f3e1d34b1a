"""Provides teacher states for the clustering benches.

They are collected once and kept in the run directory; an interrupted collection is continued.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dskd_ds.data.blocks import train_blocks
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.cluster import Points
from dskd_ds.senses.build.collect import collect
from dskd_ds.senses.build.vectors import Rows, states_of
from dskd_ds.senses.dictionary.identity import collection_digest, dictionary_key
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec import RunSpec

NUM_TOKENS = 49_152
"""Corpus tokens that the teacher reads. This takes two to three minutes on two cores, once."""
HELD_OUT = 8
"""One of this many vectors is held out. A build holds out fewer; here the error must be precise."""


def bench_rows(spec: RunSpec) -> Rows:
    """Return the vectors of NUM_TOKENS tokens of the spec's corpus, sorted by token and hash."""
    senses = spec.senses.model_copy(update={"collect_tokens": NUM_TOKENS})
    smaller = spec.model_copy(update={"senses": senses})
    teacher, comm = NamedModel.of_teacher(spec.teacher), Communicator()
    blocks = train_blocks(spec.data, teacher.tokenizer)
    digest = collection_digest(dictionary_key(smaller, teacher, blocks, comm))
    folder = Path(spec.run_dir) / "bench" / f"states-{digest}"
    return np.concatenate(list(collect(smaller, teacher, blocks, folder, comm)))


def split(rows: Rows) -> tuple[Rows, Rows]:
    """Split vectors by their hash into (vectors to cluster, held-out vectors)."""
    # By the hash, not by the order, so that every run holds out the same vectors.
    held_out = (rows["hash"] >> np.uint64(20)) % np.uint64(HELD_OUT) == 0
    return rows[~held_out], rows[held_out]


def quantisation_error(senses: Senses, tokens: NDArray[np.int64], states: Tensor) -> float:
    """Return the mean squared distance per dimension of states to the nearest sense of their token.

    tokens: [Q]; states: [Q, D]. States whose token has no sense are left out: dictionaries built
    from the same vectors leave out the same states.
    """
    # Senses are sorted by token, so those of a token are one range.
    starts, ends = (np.searchsorted(senses.owners, tokens, side) for side in ("left", "right"))
    total, count = 0.0, 0
    for state, start, end in zip(states.float(), starts.tolist(), ends.tolist(), strict=True):
        if end > start:
            difference = senses.centroids[start:end].float() - state
            total += float(difference.square().mean(dim=1).min())
            count += 1
    return total / count


def heldout_error(senses: Senses, held_out: Rows) -> float:
    """Return the quantisation error of held-out vectors."""
    return quantisation_error(senses, held_out["token"], states_of(held_out))


def points_of_senses(senses: Senses) -> Points:
    """Return senses as a refresh reads them from a dictionary: centroids rounded to bfloat16."""
    assert senses.spreads is not None
    return Points(
        tokens=senses.owners,
        states=senses.centroids.to(torch.bfloat16),
        counts=senses.counts,
        spreads=senses.spreads,
        sources=-1 - np.arange(len(senses.owners)),
    )
