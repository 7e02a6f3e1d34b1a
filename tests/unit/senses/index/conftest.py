"""Fixtures of the index's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.senses.index.small import Folders, build


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A dictionary with its index, and a folder for the copy, which does not exist yet."""
    build(tmp_path / "senses", seed=0)
    return Folders(tmp_path / "senses", tmp_path / "node")
