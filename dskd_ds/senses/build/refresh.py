"""Old senses as points of a new clustering, so that a refresh need not read the old corpus again.

An old sense stands for its vectors: a point with their number and their spread. Old senses and new
vectors are clustered together by weight, so new senses appear, centroids move, and the price of a
sense (polysemy.py) is computed over all vectors.
"""

from __future__ import annotations

import numpy as np
import torch

from dskd_ds.errors import InputError
from dskd_ds.senses.build.cluster import Points, cluster
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, check_belongs
from dskd_ds.senses.dictionary.facts import DictionaryKey
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.spec.senses import SensesSpec

FIXED_SETTINGS = {
    "hidden_layer": "states of layer",
    "attribution": "vectors by the attribution",
    "min_confidence": "vectors with min_confidence",
}
"""Fields of [senses] that a refresh cannot change, and how a message describes their value."""


def old_points(old: SenseDictionary, first_token: int, end_token: int) -> Points:
    """Return the senses of the tokens first_token..end_token - 1 as points."""
    first_row, end_row = old.owner_offsets[first_token], old.owner_offsets[end_token]
    rows = slice(int(first_row), int(end_row))
    return Points(
        tokens=old.row_owners[rows],
        states=old.senses[rows],
        counts=old.sense_counts[rows],
        spreads=old.sense_spread[rows].numpy(),
        sources=-1 - np.arange(first_row, end_row),
    )


def refreshed(
    before: Points, new: Points, spec: SensesSpec, seed: int, device: torch.device
) -> Senses:
    """Return the senses of old senses and new vectors together.

    Senses of tokens without new vectors stay as they are.
    """
    touched = np.isin(before.tokens, new.tokens)
    unchanged = before.where(~touched).as_senses(spec.contexts_per_sense > 0)
    changed = Points.join([before.where(touched), new])
    clustered = cluster(changed, spec=spec, seed=seed, device=device)
    return Senses.join([unchanged, clustered])


def check_refresh(old: SenseDictionary, key: DictionaryKey) -> None:
    """Check that new states may be mixed with those of a dictionary.

    key: of the refreshing spec (identity.dictionary_key).
    Raises InputError if teacher, tokenizer or one of FIXED_SETTINGS differ.
    """
    check_belongs(old, key["teacher"], key["tokenizer"])
    for name, description in FIXED_SETTINGS.items():
        found, wanted = old.facts["settings"][name], key["settings"][name]
        if found != wanted:
            raise InputError(
                f"[senses] {name} = {wanted}, but {old.folder} holds {description} {found},"
                " and the two cannot be mixed.\n"
                f"  set [senses] {name} = {found}, or build another dictionary."
            )

    if old.leaves_out_sinks != key.get("sinks_left_out", False):
        raise InputError(
            f"{old.folder} was built by an earlier version, with states of attention sinks.\n"
            "  build it anew: dskd senses build SPEC.toml --force"
        )


def has_read(old: SenseDictionary, corpus: str) -> bool:
    """Return whether a corpus (fingerprint) is in the dictionary.

    If it were added again, its vectors would count twice.
    """
    return any(entry["corpus"] == corpus for entry in old.facts["history"])
