"""A teacher whose every answer is known beforehand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dskd_ds.head import PLAIN
from dskd_ds.teacher.model import TeacherModel

T, V, D = 40, 60, 8


class NextToken(torch.nn.Module):
    """A trunk that knows the text: token t is followed by (7 t + 1) mod V; its state is that token's row of the head."""

    def __init__(self, head: torch.Tensor) -> None:
        super().__init__()
        self.head = head

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        return SimpleNamespace(last_hidden_state=self.head[(7 * input_ids + 1) % V] + 0.01 * position_ids[:, :, None])


HEAD = 3 * torch.nn.functional.normalize(torch.randn(V, D, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def teacher() -> TeacherModel:
    return TeacherModel(NextToken(HEAD), HEAD, PLAIN, V, D, "f", torch.device("cpu"))
