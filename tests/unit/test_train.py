"""The entry of every rank."""

from __future__ import annotations

import os
import time

import pytest

from dskd_ds import train
from dskd_ds.errors import InputError
from dskd_ds.models.named import RunModels
from dskd_ds.runtime.launchers import Launch
from dskd_ds.runtime.topology import Role
from dskd_ds.spec import load_spec


def test_an_error_that_only_another_rank_finds_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path is missing on one node only, so rank 0 has no error to report."""
    environment = {
        "RANK": "1",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert train.main(["--spec", "nowhere.toml"]) == 2
    assert waited == [train.RANK_0_FIRST_SECONDS]
    assert capsys.readouterr().err.startswith("nowhere.toml: there is no such file.")


def test_a_run_from_the_cache_alone_needs_no_link_over_several_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launch = Launch(
        launcher="srun",
        rank=0,
        world_size=2,
        local_rank=0,
        local_world_size=1,
        master_addr="node1",
        master_port=29500,
    )
    role = Role(kind="student", rank=0, size=2, launch=launch)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr("dskd_ds.plan.preflight.preflight", lambda *_: None)
    cached = ["teacher.source=cache", "topology.num_teachers=0", "repair.steps=0"]
    for overrides in ([], cached):
        spec = load_spec("tests/base_run.toml", overrides)
        if overrides:
            train.prepare(spec, RunModels.of(spec), role)
        else:
            with pytest.raises(InputError, match=r"\[link\] address"):
                train.prepare(spec, RunModels.of(spec), role)
