"""A small dictionary with an index, and the folders that it is copied between."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.senses.index.graph import build_index
from dskd_ds.spec.senses import SensesSpec


class Folders(NamedTuple):
    """A dictionary on the shared file system, and a folder on the node."""

    source: Path
    local: Path


def build(folder: Path, seed: int) -> None:
    """Write a dictionary of 90 senses and its index."""
    owners = np.repeat(np.arange(30), 3)
    rows = torch.randn(90, 16, generator=torch.Generator().manual_seed(seed))
    write_dictionary(
        folder,
        senses=Senses(owners, rows, np.ones(90, np.int64)),
        relations=TokenRelations({}, {}, []),
        facts={"vocab_size": 30},
        num_senses=3,
    )
    spec = SensesSpec(dictionary="-", index_dims=8)
    build_index(open_dictionary(folder), spec, torch.randn(4, 16))
