"""A manifest detects files that were changed or deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import read_manifest, write_manifest


def test_changed_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    write_manifest(tmp_path, {"step": 3})
    assert read_manifest(tmp_path) == {"step": 3}
    (tmp_path / "a").write_text("hallo")
    assert read_manifest(tmp_path, verify=False) == {"step": 3}  # compares sizes only
    with pytest.raises(InputError, match="differs from the manifest"):
        read_manifest(tmp_path)


def test_other_sizes_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_text("hello")
    with pytest.raises(InputError, match=r"it has no manifest.json"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, {})
    (tmp_path / "below" / "a").write_text("hell")
    with pytest.raises(InputError, match=r"below/a: it has 4 bytes, but 5 were written"):
        read_manifest(tmp_path, verify=False)
    (tmp_path / "below" / "a").unlink()
    with pytest.raises(InputError, match=r"below/a: it is missing"):
        read_manifest(tmp_path, verify=False)
