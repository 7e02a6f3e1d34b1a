"""A manifest detects files that were changed or deleted."""

from __future__ import annotations

import json
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


def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    write_manifest(tmp_path, {})
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(InputError, match=f"{tmp_path}/link: not listed in"):
        read_manifest(tmp_path, verify=False)
    (tmp_path / "link").unlink()
    # What locks and atomic writes leave is never opened, and NFS keeps open files that way.
    for name in ("a.lock", "b.partial", ".nfs0001", "manifest.json.partial", "checked.json"):
        (tmp_path / name).touch()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "graph").touch()
    with pytest.raises(InputError, match="index/graph: not listed in"):
        read_manifest(tmp_path)
    write_manifest(tmp_path / "index", {})  # a folder with a manifest of its own
    assert read_manifest(tmp_path) == {}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "b/../a", "./a", "", ".", "b//a", "manifest.json", "a\0"]
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    entry = {"bytes": 5, "sha256": "0" * 64}
    content = {"facts": {}, "files": {name: entry}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not the path of a file inside of the folder"):
        read_manifest(tmp_path, verify=False)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "[" * 100_000,
        '{"facts": {}, "files": []}',
        '{"facts": 1, "files": {}}',
        '{"facts": {}, "files": {"a": 1}}',
        '{"facts": {}, "files": {"a": {"bytes": -1, "sha256": ""}}}',
        '{"facts": {}, "files": {"a": {"bytes": 1, "sha256": "short"}}}',
        '{"facts": {}, "files": {"a": {"bytes": true, "sha256": "short"}}}',
    ],
)
def test_content_that_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="this is not a valid manifest"):
        read_manifest(tmp_path)
