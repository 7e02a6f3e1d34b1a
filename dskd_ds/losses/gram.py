"""The similarity of positions that share a token: which uses of a word are alike.

Source: docs/method.md, "Terms below the head".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def same_token_gram(states: Tensor, targets: Tensor, tokens: Tensor) -> Tensor:
    """Return per position the mean of (cos_S(i, j) - cos_T(i, j))^2 over the others of its token.

    states: [N, D] of the student. targets: [N, D_T] of the teacher; the hidden sizes may differ.
    tokens: [N]. All N positions are compared with each other: call it block by block. 0 for a
    token that comes once.
    """
    student = normalize(states.float(), dim=1)
    teacher = normalize(targets.float(), dim=1)
    gap = student @ student.T - teacher @ teacher.T
    is_pair = tokens[:, None] == tokens[None]
    is_pair.fill_diagonal_(False)
    num_others = is_pair.sum(dim=1).clamp_min(1)
    return torch.where(is_pair, gap, 0.0).square().sum(dim=1) / num_others
