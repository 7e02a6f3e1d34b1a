"""Manifests notice files that changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import read_manifest, write_manifest


def test_manifest_notices_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    write_manifest(tmp_path, {"step": 3})
    assert read_manifest(tmp_path) == {"step": 3}
    (tmp_path / "a").write_text("hallo")
    assert read_manifest(tmp_path, verify=False) == {"step": 3}  # sizes agree
    with pytest.raises(InputError, match="not what was written"):
        read_manifest(tmp_path)
