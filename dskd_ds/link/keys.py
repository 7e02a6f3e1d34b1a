"""CURVE keys and addresses of a run's link, as files in its run directory.

link/keys/student.json, teacher.json   one key pair for each side, 0600; made once by whoever comes first
link/student-<rank>.json               where a student listens; rewritten each time it starts
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import zmq
from filelock import FileLock

from dskd_ds.errors import LinkError


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair in Z85 text."""

    public: bytes
    secret: bytes


@dataclass(frozen=True)
class LinkKeys:
    """The two key pairs of a run. Holding both is what admits a process to the link."""

    student: KeyPair
    teacher: KeyPair


def link_dir(run_dir: Path) -> Path:
    """The folder of the run's link files."""
    return run_dir / "link"


def run_keys(run_dir: Path) -> LinkKeys:
    """The run's keys; makes them if they are not there yet. Raises LinkError if others may read them."""
    folder = link_dir(run_dir) / "keys"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(folder / "lock"):
        return LinkKeys(_pair(folder / "student.json"), _pair(folder / "teacher.json"))


def _pair(path: Path) -> KeyPair:
    if not path.exists():
        public, secret = zmq.curve_keypair()
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"public": public.decode(), "secret": secret.decode()}, file)
    if path.stat().st_mode & 0o077:
        raise LinkError(
            f"{path}: others may read this key.\n  chmod 600 it, or delete the folder to have new keys made."
        )
    try:
        content = json.loads(path.read_text())
        return KeyPair(content["public"].encode(), content["secret"].encode())
    except (ValueError, KeyError) as error:
        raise LinkError(
            f"{path}: not a key file ({error}).\n  delete {path.parent} to have new keys made."
        ) from None


def publish_address(run_dir: Path, student_rank: int, address: str) -> None:
    """Write down where a student listens; whole or not at all, so a reader never sees half of it."""
    path = link_dir(run_dir) / f"student-{student_rank}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"address": address}))
    partial.replace(path)


def withdraw_address(run_dir: Path, student_rank: int) -> None:
    """Take the address back when the student stops listening."""
    (link_dir(run_dir) / f"student-{student_rank}.json").unlink(missing_ok=True)


def read_addresses(run_dir: Path) -> dict[int, str]:
    """student rank -> address, as far as they are published now."""
    addresses: dict[int, str] = {}
    for path in link_dir(run_dir).glob("student-*.json"):
        try:
            addresses[int(path.stem.split("-")[1])] = str(json.loads(path.read_text())["address"])
        except (ValueError, KeyError, FileNotFoundError):
            continue  # being replaced, or not ours: the next look will tell
    return addresses
