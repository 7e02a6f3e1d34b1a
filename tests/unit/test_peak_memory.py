"""Measured work space against work whose need is known."""

from __future__ import annotations

import torch

from dskd_ds.bench.peak_memory import Work, workspace_bytes

MEGABYTES = 64


def known_work(megabytes: int) -> Work:
    """Touches so many megabytes, of which half stay behind as gradients."""
    kept: list[torch.Tensor] = []

    def run() -> None:
        kept.append(torch.ones(megabytes << 17))
        torch.ones(megabytes << 17)

    return Work(lambda: torch.ones(1 << 20), run, lambda: megabytes << 19)


def test_workspace_is_the_peak_less_the_gradients() -> None:
    found = workspace_bytes(known_work, MEGABYTES)
    assert abs(found - (MEGABYTES << 19)) < 4 << 20
