"""Turns chosen dictionary rows into the tensors that the sense loss reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dskd_ds.senses.choose import candidates as sets
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.signals.parts.chosen import Candidates


@dataclass(frozen=True)
class Pull:
    """S+ of P positions, reduced to what the loss needs: its mean and its spread."""

    mean: Tensor
    """[P, D] float32; zeros where S+ is empty."""
    spread: Tensor
    """[P] float32: mean |s|^2 - |mean|^2; zero where S+ is empty."""
    present: Tensor
    """[P] bool: whether S+ has any sense."""


@dataclass(frozen=True)
class Push:
    """S- of P positions, padded to the same number K of senses."""

    senses: Tensor
    """[P, K, D] in the dictionary's format, padded with zeros."""
    norms: Tensor
    """[P, K] float32: |s|^2."""
    mask: Tensor
    """[P, K] bool: which entries are senses, not padding."""


def pull_vectors(dictionary: SenseDictionary, pull: Candidates, num_positions: int) -> Pull:
    """Average the senses of S+ at each of num_positions positions."""
    counts = np.bincount(pull.positions, minlength=num_positions)
    positions, rows = torch.from_numpy(pull.positions), torch.from_numpy(pull.rows)
    # 1 where S+ is empty, so that the mean there is 0 and not NaN.
    divisor = torch.from_numpy(counts).clamp_min(1).float()
    senses = dictionary.senses.index_select(0, rows).float()
    total = torch.zeros(num_positions, dictionary.senses.shape[1]).index_add_(0, positions, senses)
    mean = total / divisor[:, None]
    total_square = torch.zeros(num_positions).index_add_(
        0, positions, dictionary.squared_norms[rows]
    )
    mean_square = total_square / divisor
    spread = (mean_square - mean.square().sum(dim=1)).clamp_min(0)
    present = torch.from_numpy(counts > 0)
    return Pull(mean, torch.where(present, spread, 0.0), present)


def push_vectors(dictionary: SenseDictionary, push: Candidates, num_positions: int) -> Push:
    """Copy the senses of S- at each of num_positions positions into one padded tensor."""
    counts = np.bincount(push.positions, minlength=num_positions)
    width = max(1, int(counts.max()))
    columns = torch.from_numpy(sets.ranges(np.zeros_like(counts), counts))
    positions, rows = torch.from_numpy(push.positions), torch.from_numpy(push.rows)
    hidden_size = dictionary.senses.shape[1]
    senses = torch.zeros(num_positions, width, hidden_size, dtype=dictionary.senses.dtype)
    senses[positions, columns] = dictionary.senses.index_select(0, rows)
    norms = torch.zeros(num_positions, width)
    norms[positions, columns] = dictionary.squared_norms[rows]
    mask = torch.arange(width) < torch.from_numpy(counts)[:, None]
    return Push(senses, norms, mask)
