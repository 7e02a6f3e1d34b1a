"""The control of a loss with senses: tokens that exchange their senses and relations."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dskd_ds.data.batches import IGNORE
from dskd_ds.lexicon.relations import Ragged
from dskd_ds.senses.dictionary.dictionary import SenseDictionary

SHUFFLE = 2
"""Last number of the key of the random cycle, which keeps it apart from other draws."""


class Relations(Protocol):
    """A dictionary, the relations of its tokens that are used, and the seed of a run."""

    dictionary: SenseDictionary
    synonyms: Ragged
    antonyms: Ragged
    seed: int


def exchanged(targets: Tensor, permutation: Tensor) -> Tensor:
    """Return targets with each token replaced by the one whose senses it gets; IGNORE stays."""
    return torch.where(targets == IGNORE, IGNORE, permutation[targets.clamp_min(0)])


def shuffled_tokens(retriever: Relations) -> Tensor:
    """Return [V] the token whose senses and relations each token gets instead of its own.

    Tokens exchange them in one random cycle, so that none keeps its own. Only tokens exchange that
    have the same of the three: senses, synonyms, antonyms. So all positions are drawn as without
    shuffling. A token that is alone in this keeps its own.
    """
    dictionary = retriever.dictionary
    starts = dictionary.owner_offsets[: dictionary.vocab_size + 1]
    has = (np.diff(starts), retriever.synonyms.lengths(), retriever.antonyms.lengths())
    group = sum((lengths > 0).astype(np.int64) << bit for bit, lengths in enumerate(has))
    generator = np.random.default_rng([retriever.seed, SHUFFLE])
    tokens = torch.arange(dictionary.vocab_size)
    for number in range(1, 1 << len(has)):
        order = generator.permutation(np.flatnonzero(group == number))
        tokens[torch.from_numpy(order)] = torch.from_numpy(np.roll(order, 1))
    return tokens
