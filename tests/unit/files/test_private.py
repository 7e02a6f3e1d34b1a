"""Folders that only their owner may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.files.private import check_private, private_folder


def test_a_folder_is_created_closed_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path / "new")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(folder) == folder


def test_an_open_folder_is_refused_or_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(InputError, match=r"its mode is 755.*\n.*chmod 700"):
        private_folder(tmp_path)
    private_folder(tmp_path, close_if_open=True)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("close_if_open", [False, True])
def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, close_if_open: bool
) -> None:
    folder = private_folder(tmp_path / "other")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(InputError, match=f"{folder}: it belongs to user .*runs as user 12345"):
        private_folder(folder, close_if_open)


@pytest.mark.parametrize("target", ["folder", "nowhere"])
def test_links_and_files_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / target)
    for close_if_open in (False, True):
        with pytest.raises(InputError, match=f"{link}: this is a symbolic link"):
            private_folder(link, close_if_open)
    file = tmp_path / "file"
    file.touch(mode=0o600)
    check_private(file)
    with pytest.raises(InputError, match="this is not a folder"):
        private_folder(file)
    file.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        check_private(file)
