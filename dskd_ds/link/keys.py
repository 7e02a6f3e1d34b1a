"""CURVE keys and addresses of a run's link, kept as files in the run directory.

link/keys/student.json, teacher.json   key pair of each side, mode 0600; made by the first process
link/student-<rank>.json               a student's address; rewritten when the student starts

All of it must belong to the user of this process, and link/ is closed to others (0700).
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import zmq
from filelock import FileLock

from dskd_ds.errors import InputError, LinkError
from dskd_ds.files.atomic import write_json
from dskd_ds.files.private import check_private, private_folder

KEY_LENGTH = 40
"""Characters of a CURVE key in Z85 text."""


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair in Z85 text."""

    public: bytes
    secret: bytes


@dataclass(frozen=True)
class LinkKeys:
    """The two key pairs of a run. A process that holds both is admitted to the link."""

    student: KeyPair
    teacher: KeyPair


@dataclass(frozen=True)
class Published:
    """What the address file of a student says."""

    address: str
    instance: str
    """Random, so that a student that was started again is another one, even at the same port."""


@dataclass(frozen=True)
class Endpoint:
    """Where a student listens, and the keys that it admits."""

    published: Published
    keys: LinkKeys | None
    """None if the link is not encrypted."""

    @property
    def address(self) -> str:
        """The address to connect to."""
        return self.published.address


def link_dir(run_dir: Path) -> Path:
    """Return the folder of the run's link files."""
    return run_dir / "link"


def private_link_dir(run_dir: Path) -> Path:
    """Return the folder of the run's link files, which is created if necessary, with mode 0700.

    Raises LinkError if it belongs to another user.
    """
    try:
        # Older versions created it open. What it holds is checked file by file.
        return private_folder(link_dir(run_dir), close_if_open=True)
    except InputError as error:
        raise LinkError(f"{error}") from None


def run_keys(run_dir: Path) -> LinkKeys:
    """Return the run's keys, and make them if there are none yet.

    Raises LinkError if other users own or may read a key file or its folder.
    """
    folder = private_link_dir(run_dir) / "keys"
    try:
        private_folder(folder)
        with FileLock(folder / "lock"):
            return LinkKeys(_key_pair(folder / "student.json"), _key_pair(folder / "teacher.json"))
    except InputError as error:
        raise LinkError(f"{error}") from None


def _key_pair(path: Path) -> KeyPair:
    """Return the key pair of a file; a missing or half-written file is replaced by a new pair."""
    if path.is_symlink() or path.exists():
        check_private(path)
        pair = _parse_key_pair(path.read_bytes())
        # An unreadable file is what an interrupted first write of an older version left.
        if pair is not None:
            return pair
    public, secret = zmq.curve_keypair()
    _write_private(path, json.dumps({"public": public.decode(), "secret": secret.decode()}))
    return KeyPair(public, secret)


def _parse_key_pair(content: bytes) -> KeyPair | None:
    """Return the key pair in a file's content, or None if the content is not a whole key pair."""
    try:
        keys = json.loads(content)
        pair = KeyPair(keys["public"].encode(), keys["secret"].encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    is_whole = len(pair.public) == len(pair.secret) == KEY_LENGTH
    return pair if is_whole else None


def _write_private(path: Path, content: str) -> None:
    """Write a file that appears whole or not at all, with mode 0600."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    # Created with its mode: before a later chmod other users could open the file.
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def publish_address(run_dir: Path, student_rank: int, address: str) -> str:
    """Write a student's address to its file, atomically; returns what names this publication."""
    private_link_dir(run_dir)
    instance = secrets.token_hex(8)
    content = {"address": address, "instance": instance}
    write_json(_address_file(run_dir, student_rank), content)
    return instance


def withdraw_address(run_dir: Path, student_rank: int, instance: str) -> None:
    """Delete a student's address file, when the student stops listening.

    instance: as returned by `publish_address`. A file that another launch has written since stays.
    """
    published = read_addresses(run_dir).get(student_rank)
    if published is not None and published.instance == instance:
        _address_file(run_dir, student_rank).unlink(missing_ok=True)


def _address_file(run_dir: Path, student_rank: int) -> Path:
    return link_dir(run_dir) / f"student-{student_rank}.json"


def read_addresses(run_dir: Path) -> dict[int, Published]:
    """Return what is published now, by student rank."""
    addresses: dict[int, Published] = {}
    for path in link_dir(run_dir).glob("student-*.json"):
        try:
            rank = int(path.stem.split("-")[1])
            content = json.loads(path.read_text(encoding="utf-8"))
            addresses[rank] = Published(str(content["address"]), str(content["instance"]))
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            continue  # withdrawn in this moment, or not one of our files
    return addresses
