"""A job of SLURM, as the commands of the job scripts see it."""

from __future__ import annotations

import pytest

from dskd_ds.commands import attempt
from dskd_ds.runtime.slurm import JobFacts


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A job of two nodes; its state can be changed, and no node has failed."""
    facts = {"state": "RUNNING"}
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    monkeypatch.setattr(attempt, "read_job", lambda _: JobFacts(facts["state"], ("n1", "n2")))
    monkeypatch.setattr(attempt, "failed_nodes", lambda _: [])
    return facts
