"""Real teacher states for the benches of clustering: collected once below the run directory, and again only what a kill left out."""

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
"""Corpus tokens that the teacher reads: two to three minutes on two cores, once."""
HELD_OUT = 8
"""One vector in this many is held out: more than a dictionary gives up, so that an error is measured finely."""


def bench_rows(spec: RunSpec) -> Rows:
    """The sample of NUM_TOKENS tokens of the spec's corpus, sorted by token and hash."""
    smaller = spec.model_copy(
        update={"senses": spec.senses.model_copy(update={"collect_tokens": NUM_TOKENS})}
    )
    teacher, comm = NamedModel.of_teacher(spec.teacher), Communicator()
    blocks = train_blocks(spec.data, teacher.tokenizer)
    folder = (
        Path(spec.run_dir)
        / "bench"
        / f"states-{collection_digest(dictionary_key(smaller, teacher, blocks, comm))}"
    )
    return np.concatenate(list(collect(smaller, teacher, blocks, folder, comm)))


def split(rows: Rows) -> tuple[Rows, Rows]:
    """(to cluster, held out), by hash."""
    held_out = (rows["hash"] >> np.uint64(20)) % np.uint64(HELD_OUT) == 0
    return rows[~held_out], rows[held_out]


def quantisation_error(senses: Senses, tokens: NDArray[np.int64], states: Tensor) -> float:
    """Mean squared distance per dimension of states [Q, D] from the nearest sense of their own tokens [Q].

    A state whose token has no sense does not count: it is the same states for every dictionary made from the same vectors.
    """
    starts, ends = (np.searchsorted(senses.owners, tokens, side) for side in ("left", "right"))
    total, number = 0.0, 0
    for state, start, end in zip(states.float(), starts.tolist(), ends.tolist(), strict=True):
        if end > start:
            total += float((senses.centroids[start:end].float() - state).square().mean(dim=1).min())
            number += 1
    return total / number


def heldout_error(senses: Senses, held_out: Rows) -> float:
    """quantisation_error of records."""
    return quantisation_error(senses, held_out["token"], states_of(held_out))


def points_of_senses(senses: Senses) -> Points:
    """Senses as a dictionary gives them back to a refresh: centroids rounded to bfloat16."""
    assert senses.spreads is not None
    return Points(
        senses.owners,
        senses.centroids.to(torch.bfloat16),
        senses.counts,
        senses.spreads,
        -1 - np.arange(len(senses.owners)),
    )
