"""CURVE keys and addresses of a run's link, kept as files in the run directory.

link/keys/student.json, teacher.json   key pair of each side, mode 0600; made by the first process
link/student-<rank>.json               a student's address; rewritten when the student starts
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import zmq
from filelock import FileLock

from dskd_ds.errors import LinkError
from dskd_ds.files.atomic import write_json


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


def link_dir(run_dir: Path) -> Path:
    """Return the folder of the run's link files."""
    return run_dir / "link"


def run_keys(run_dir: Path) -> LinkKeys:
    """Return the run's keys, and make them if there are none yet.

    Raises LinkError if other users may read a key file, or if it is invalid.
    """
    folder = link_dir(run_dir) / "keys"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(folder / "lock"):
        return LinkKeys(_key_pair(folder / "student.json"), _key_pair(folder / "teacher.json"))


def _key_pair(path: Path) -> KeyPair:
    if not path.exists():
        public, secret = zmq.curve_keypair()
        # Created with its mode: before a later chmod other users could open the file.
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"public": public.decode(), "secret": secret.decode()}, file)
    if path.stat().st_mode & 0o077:
        raise LinkError(
            f"{path}: other users may read this key.\n"
            "  chmod 600 it, or delete the folder: new keys are made then."
        )
    try:
        content = json.loads(path.read_text())
        return KeyPair(content["public"].encode(), content["secret"].encode())
    except (ValueError, KeyError) as error:
        raise LinkError(
            f"{path}: not a key file ({error}).\n  delete {path.parent}: new keys are made then."
        ) from None


def publish_address(run_dir: Path, student_rank: int, address: str) -> None:
    """Write a student's address to its file, atomically."""
    write_json(_address_file(run_dir, student_rank), {"address": address})


def withdraw_address(run_dir: Path, student_rank: int) -> None:
    """Delete a student's address file, when the student stops listening."""
    _address_file(run_dir, student_rank).unlink(missing_ok=True)


def _address_file(run_dir: Path, student_rank: int) -> Path:
    return link_dir(run_dir) / f"student-{student_rank}.json"


def read_addresses(run_dir: Path) -> dict[int, str]:
    """Return the addresses that are published now, by student rank."""
    addresses: dict[int, str] = {}
    for path in link_dir(run_dir).glob("student-*.json"):
        try:
            rank = int(path.stem.split("-")[1])
            addresses[rank] = str(json.loads(path.read_text())["address"])
        except (ValueError, KeyError, FileNotFoundError):
            continue  # withdrawn in this moment, or not one of our files
    return addresses
