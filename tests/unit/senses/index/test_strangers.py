"""What another user of the node may have prepared: copies, locks, sockets' folders, manifests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from dskd_ds.errors import InputError
from dskd_ds.files import private
from dskd_ds.senses.dictionary.dictionary import SENSES_FILE
from dskd_ds.senses.index.replicate import CHECKED_FILE, local_copy
from dskd_ds.senses.index.service import IndexServiceError, service_address
from tests.unit.senses.index.small import Folders


def copy_of(folders: Folders) -> Path:
    """Return a copy that was made now."""
    folder, num_bytes = local_copy(*folders)
    assert num_bytes > 0
    return folder


def test_a_copy_is_closed_to_others_below_an_open_folder(folders: Folders) -> None:
    folders.local.mkdir()
    folders.local.chmod(0o1777)
    copy = copy_of(folders)
    for folder in (copy, copy.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folders.local.iterdir()] == [f"dskd-{os.getuid()}"]


@pytest.mark.parametrize("which", ["copy", "folder of all copies"])
@pytest.mark.parametrize("reason", ["belongs to user", "its mode is 755"])
def test_a_copy_of_a_stranger_is_refused_by_name(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, which: str, reason: str
) -> None:
    copy = copy_of(folders)
    folder = copy if which == "copy" else copy.parent
    if reason == "its mode is 755":
        folder.chmod(0o755)
    else:
        lstat = Path.lstat
        stranger = lstat(folder)
        fields = [*stranger[:4], os.getuid() + 1, *stranger[5:]]
        foreign = os.stat_result(fields)
        monkeypatch.setattr(Path, "lstat", lambda path: foreign if path == folder else lstat(path))
    with pytest.raises(InputError, match=f"{folder}: .*{reason}"):
        local_copy(*folders)


def damaged(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    """Return a function that changes the checked.json of a copy."""

    def damage(copy: Path) -> None:
        path = copy / CHECKED_FILE
        checked = json.loads(path.read_text())
        change(checked)
        path.write_text(json.dumps(checked))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damaged(lambda checked: checked.clear()), id="nothing is listed"),
        pytest.param(damaged(lambda checked: checked.pop(SENSES_FILE)), id="one file is missing"),
        pytest.param(
            damaged(lambda checked: checked.update({"../x": [1, 2, 3]})), id="one too many"
        ),
        pytest.param(lambda copy: (copy / CHECKED_FILE).write_text("[]"), id="a list"),
        pytest.param(lambda copy: (copy / "index/extra.bin").write_text("x"), id="an extra file"),
        pytest.param(
            lambda copy: (copy / "index/manifest.json").write_text("{}"), id="other manifest"
        ),
    ],
)
def test_a_copy_that_differs_from_the_manifests_is_made_again(
    folders: Folders, damage: Callable[[Path], object]
) -> None:
    copy = copy_of(folders)
    damage(copy)
    assert copy_of(folders) == copy
    assert not (copy / "index/extra.bin").exists()
    assert local_copy(*folders) == (copy, 0)


@pytest.mark.parametrize("name", [SENSES_FILE, "index", "extra"])
def test_a_link_in_a_copy_is_refused(folders: Folders, name: str) -> None:
    copy = copy_of(folders)
    if (copy / name).exists():
        (copy / name).rename(folders.local / "moved")
    (copy / name).symlink_to(folders.local / "moved")
    with pytest.raises(InputError, match=f"{copy / name}: there is a symbolic link"):
        local_copy(*folders)


@pytest.mark.parametrize("name", ["/etc/hostname", "../precious", "index/../../precious"])
def test_a_manifest_that_leaves_its_folder_is_refused(folders: Folders, name: str) -> None:
    path = folders.source / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(manifest))
    (folders.source.parent / "precious").write_text("content")
    with pytest.raises(InputError, match=f"{path}: this is not a valid manifest \\('{name}'"):
        local_copy(*folders)
    assert not folders.local.exists()
    assert (folders.source.parent / "precious").read_text() == "content"


def test_a_socket_fits_below_a_long_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_folder = tmp_path / ("long" * 30)
    long_folder.mkdir()
    short_folder = Path(f"/tmp/dskd-test-{os.getpid()}")
    monkeypatch.setattr(private, "SHORT_FOLDER", short_folder)
    monkeypatch.setattr("tempfile.tempdir", str(long_folder))
    address = service_address("run", 1)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(address)
    folder = Path(address.removeprefix("ipc://")).parent
    assert folder.parent == short_folder
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(IndexServiceError, match="its mode is 755"):
        service_address("run", 1)
    for path in (*folder.iterdir(), folder, short_folder):
        path.unlink() if path.is_socket() else path.rmdir()


def test_a_folder_for_the_socket_that_cannot_be_created_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A path that is short enough for a socket, but no folder.
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with pytest.raises(
        IndexServiceError, match=r"cannot be created \(Not a directory\).*\n.*TMPDIR"
    ):
        service_address("run", 1)
