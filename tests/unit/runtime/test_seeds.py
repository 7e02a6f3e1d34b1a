"""Derived seeds."""

from __future__ import annotations

from dskd_ds.runtime.seeds import epoch_seed


def test_no_two_epochs_of_runs_with_near_seeds_share_a_seed() -> None:
    seeds = {epoch_seed(seed, epoch) for seed in range(20) for epoch in range(50)}
    assert len(seeds) == 20 * 50


def test_a_run_that_is_resumed_with_a_newer_version_keeps_its_order() -> None:
    assert epoch_seed(7, 3) == 7_000_024
