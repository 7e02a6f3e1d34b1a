"""The key by which student and teacher compare what they choose senses with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.index.graph import senses_digest


def key_of_choice(dictionary: SenseDictionary, settings: Mapping[str, object]) -> str:
    """Return a key that is equal on two sides only if both choose the same senses by a state.

    settings: all that decide the choice beside the dictionary, ready for JSON.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"dictionary {senses_digest(dictionary)[:16]}, settings {digest[:16]}"
