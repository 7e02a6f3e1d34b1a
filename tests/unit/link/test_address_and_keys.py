"""Where a student listens, and who may read the run's keys."""

from __future__ import annotations

import os
import socket as system_socket
from pathlib import Path

import pytest

from dskd_ds.errors import InputError, LinkError
from dskd_ds.link import StudentLink, TeacherLink, keys
from tests.unit.link.test_link import ARRAYS, QUICK, WANTED, hello, serve


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("no.such.host.invalid", "nor a known host"),
        ("203.0.113.1", "cannot listen at"),
        ("0.0.0.0", "cannot connect to that"),
    ],
)
def test_an_invalid_address_is_explained(tmp_path: Path, address: str, reason: str) -> None:
    spec = QUICK.model_copy(update={"address": address})
    expected = rf'\[link\] address = "{address}", but .*{reason}.*\n  set it to "hostname"'
    with pytest.raises(InputError, match=expected):
        StudentLink(tmp_path, 0, spec, 9, 4)
    assert keys.read_addresses(tmp_path) == {}


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_a_launch_of_several_nodes_refuses_a_loopback_address(tmp_path: Path, address: str) -> None:
    spec = QUICK.model_copy(update={"address": address})
    expected = r"several nodes, and 127\.0\.0\.1 is reached from its own node only"
    with pytest.raises(InputError, match=expected):
        StudentLink(tmp_path, 0, spec, 9, 4, spans_nodes=True)
    StudentLink(tmp_path, 0, spec, 9, 4).close()


def test_a_host_name_that_resolves_to_loopback_is_reached_from_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Debian a machine resolves its own host name to 127.0.1.1.

    Other machines would not reach a student that listened there only.
    """
    monkeypatch.setattr(system_socket, "gethostname", lambda: "localhost")
    spec = QUICK.model_copy(update={"address": "hostname"})
    link = StudentLink(tmp_path, 0, spec, 9, 4)
    assert link.address.startswith("tcp://localhost:")
    port = int(link.address.split(":")[-1])
    other_address = ("127.0.0.2", port)  # of this machine, but not the one the name resolves to
    system_socket.create_connection(other_address, timeout=20).close()
    teacher = TeacherLink(tmp_path, spec, hello("a"), num_students=1)
    serve(teacher, 3)
    assert link.submit(ARRAYS, WANTED).result(20).teacher == "a"
    link.close()
    teacher.close()
    open_spec = spec.model_copy(update={"encrypt": False})
    with pytest.raises(InputError, match="with encrypt = true"):
        StudentLink(tmp_path, 0, open_spec, 9, 4, spans_nodes=True)


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_keys_that_other_users_may_read_are_refused(tmp_path: Path, mode: int) -> None:
    keys.run_keys(tmp_path)
    path = tmp_path / "link" / "keys" / "student.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    with pytest.raises(LinkError, match=rf"{path}: its mode is {mode:o}.*\n.*chmod 600"):
        keys.run_keys(tmp_path)


@pytest.mark.parametrize("name", ["link", "link/keys", "link/keys/teacher.json"])
def test_what_another_user_owns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    keys.run_keys(tmp_path)
    foreign, lstat = tmp_path / name, Path.lstat

    def lstat_with_a_stranger(path: Path) -> os.stat_result:
        status = lstat(path)
        owner = status.st_uid + (path == foreign)
        return os.stat_result([*status[:4], owner, *status[5:]])

    monkeypatch.setattr(Path, "lstat", lstat_with_a_stranger)
    with pytest.raises(LinkError, match=f"{foreign}: it belongs to user"):
        keys.run_keys(tmp_path)


def test_a_key_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    keys.run_keys(tmp_path)
    path = tmp_path / "link" / "keys" / "teacher.json"
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(LinkError, match="this is a symbolic link"):
        keys.run_keys(tmp_path)


@pytest.mark.parametrize("encrypt", [True, False])
def test_the_link_folder_is_closed_to_others(tmp_path: Path, encrypt: bool) -> None:
    spec = QUICK.model_copy(update={"encrypt": encrypt})
    (tmp_path / "link").mkdir(mode=0o755)  # as older versions left it
    StudentLink(tmp_path, 0, spec, 9, 4).close()
    assert (tmp_path / "link").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content", ["", '{"public": "abc', '{"public": "abc", "secret": "d"}', "[]"]
)
@pytest.mark.parametrize("name", ["student.json", "student.json.partial"])
def test_an_interrupted_first_key_write_does_not_block_a_restart(
    tmp_path: Path, name: str, content: str
) -> None:
    folder = tmp_path / "link" / "keys"
    folder.mkdir(parents=True, mode=0o700)
    (folder / name).touch(mode=0o600)
    (folder / name).write_text(content)
    made = keys.run_keys(tmp_path)
    assert keys.run_keys(tmp_path) == made
    assert len(made.student.secret) == keys.KEY_LENGTH
    assert sorted(path.name for path in folder.glob("*.json*")) == ["student.json", "teacher.json"]


def test_a_late_end_leaves_the_address_of_the_next_launch(tmp_path: Path) -> None:
    first = keys.publish_address(tmp_path, 0, "tcp://127.0.0.1:1")
    second = keys.publish_address(tmp_path, 0, "tcp://127.0.0.1:2")
    keys.withdraw_address(tmp_path, 0, first)
    assert keys.read_addresses(tmp_path)[0].address == "tcp://127.0.0.1:2"
    keys.withdraw_address(tmp_path, 0, second)
    assert keys.read_addresses(tmp_path) == {}
    keys.withdraw_address(tmp_path, 0, second)  # it is gone already
