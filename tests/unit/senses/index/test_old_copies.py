"""Node-local copies are removed when nobody uses them, and never before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dskd_ds.senses.index.old_copies import UNUSED_SECONDS
from dskd_ds.senses.index.replicate import local_copy
from tests.unit.senses.index.small import Folders, build

USE = """
import sys
from pathlib import Path
from dskd_ds.senses.index.old_copies import note_use
note_use(Path(sys.argv[1]))
print("used", flush=True)
sys.stdin.read()
"""


def make_old(path: Path) -> None:
    """Set the time of a file or folder to more than a week ago."""
    old = time.time() - UNUSED_SECONDS - 60
    os.utime(path, (old, old))


@pytest.fixture
def old_copy(folders: Folders) -> Path:
    """A copy that a process made, which has ended, more than a week ago; its source is rebuilt."""
    program = (
        "import sys; from pathlib import Path;"
        "from dskd_ds.senses.index.replicate import local_copy;"
        "print(local_copy(Path(sys.argv[1]), Path(sys.argv[2]))[0])"
    )
    argv = [sys.executable, "-c", program, str(folders.source), str(folders.local)]
    made = subprocess.run(argv, capture_output=True, text=True, check=True)
    copy = Path(made.stdout.strip())
    make_old(copy.with_name(f"{copy.name}.used"))
    build(folders.source, seed=1)
    return copy


def test_a_copy_that_nobody_uses_is_removed(
    folders: Folders, old_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, _ = local_copy(*folders)
    assert made.is_dir()
    assert not old_copy.exists()
    assert f"not used for a week: {old_copy.name}" in capsys.readouterr().err


def test_a_copy_that_was_used_in_the_last_week_stays(folders: Folders, old_copy: Path) -> None:
    old_copy.with_name(f"{old_copy.name}.used").touch()
    local_copy(*folders)
    assert old_copy.is_dir()


def test_a_copy_that_a_process_uses_stays_until_that_process_is_killed(
    folders: Folders, old_copy: Path
) -> None:
    argv = [sys.executable, "-c", USE, str(old_copy)]
    user = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    assert user.stdout.readline() == "used\n"
    make_old(old_copy.with_name(f"{old_copy.name}.used"))  # it has run for more than a week
    local_copy(*folders)
    assert old_copy.is_dir()
    user.kill()
    user.communicate()
    build(folders.source, seed=2)
    local_copy(*folders)
    assert not old_copy.exists()


def test_copies_of_earlier_versions_are_removed_when_they_are_old(folders: Folders) -> None:
    folders.local.mkdir(exist_ok=True)
    copies = [folders.local / f"dskd-{os.getuid()}-senses-{name}" for name in ("old", "young")]
    for copy in copies:
        copy.mkdir()
    link = folders.local / f"dskd-{os.getuid()}-senses-link"
    link.symlink_to(folders.source)
    make_old(copies[0])
    local_copy(*folders)
    assert [copy.exists() for copy in copies] == [False, True]
    assert folders.source.is_dir()
    assert link.is_symlink()
