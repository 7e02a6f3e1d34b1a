"""Joins parts of a reply that were taken chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

import torch

from dskd_ds.losses.distributions import TopK
from dskd_ds.signals.parts.draws import Draws

Rows = TypeVar("Rows", TopK, Draws)


def concatenate(chunks: Sequence[Rows]) -> Rows:
    """Return the rows of several chunks, in their order."""
    names = [field.name for field in fields(chunks[0])]
    columns = (torch.cat([getattr(chunk, name) for chunk in chunks]) for name in names)
    return type(chunks[0])(*columns)
