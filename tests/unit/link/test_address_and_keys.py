"""Where a student listens, and who may read the run's keys."""

from __future__ import annotations

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


def test_keys_that_other_users_may_read_are_refused(tmp_path: Path) -> None:
    keys.run_keys(tmp_path)
    path = tmp_path / "link" / "keys" / "student.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(LinkError, match="other users may read this key"):
        keys.run_keys(tmp_path)
