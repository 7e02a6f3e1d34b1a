"""Old senses as points of a new clustering: how a dictionary takes in a corpus without reading again what it was made from.

An old sense stands for its vectors: a point with their number and their spread. Together with the new vectors such points are
clustered by weight, so new senses appear, centroids move, and the price of a sense (polysemy.py) is reckoned over all vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dskd_ds.errors import InputError
from dskd_ds.senses.build.cluster import Points, cluster
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, check_belongs
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec.senses import SensesSpec


def old_points(old: SenseDictionary, first_token: int, end_token: int) -> Points:
    """The senses of the tokens first_token..end_token - 1 as points."""
    rows = np.arange(old.owner_offsets[first_token], old.owner_offsets[end_token])
    part = slice(int(old.owner_offsets[first_token]), int(old.owner_offsets[end_token]))
    return Points(
        old.row_owners[part],
        old.senses[part],
        old.sense_counts[part],
        old.sense_spread[part].numpy(),
        -1 - rows,
    )


def refreshed(
    before: Points, new: Points, spec: SensesSpec, seed: int, device: torch.device
) -> Senses:
    """Senses from old senses and new vectors; those of tokens without new vectors stay as they are."""
    touched = np.isin(before.tokens, new.tokens)
    changed = Points.join([before.where(touched), new])
    return Senses.join(
        [
            before.where(~touched).as_senses(spec.contexts_per_sense > 0),
            cluster(changed, spec, seed, device),
        ]
    )


def check_refresh(old: SenseDictionary, key: dict[str, Any]) -> None:
    """Refuse to mix what cannot be mixed. key: of the refreshing spec (build.dictionary_key). Raises InputError."""
    check_belongs(old, key["teacher"], key["tokenizer"])
    for name, what in (
        ("hidden_layer", "states of layer"),
        ("attribution", "vectors by the attribution"),
        ("min_confidence", "vectors with min_confidence"),
    ):
        found, asked = old.facts["settings"][name], key["settings"][name]
        if found != asked:
            raise InputError(
                f"[senses] {name} = {asked}, but {old.folder} holds {what} {found}, and the two do not mix.\n"
                f"  set [senses] {name} = {found}, or build a dictionary of its own."
            )


def has_read(old: SenseDictionary, corpus: str) -> bool:
    """Whether a corpus (its fingerprint) is in the dictionary already; twice, its vectors would count double."""
    return any(past["corpus"] == corpus for past in old.facts["history"])
