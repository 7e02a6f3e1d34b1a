"""Locks of killed processes are removed, so that no later run waits for them."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import ninja
import pytest
from torch.utils.cpp_extension import _get_build_directory
from torch.utils.file_baton import FileBaton

from dskd_ds.runtime.world import (
    COMPILE_SECONDS,
    LOAD_SECONDS,
    _without_stale_locks,
    build_root,
    remove_stale_locks,
    use_own_build_folder,
    use_own_ninja,
)


def make_lock(folder: Path, age_seconds: float, is_compiled: bool) -> Path:
    """Lock an op as a process did that was then killed."""
    folder.mkdir(parents=True, exist_ok=True)
    if is_compiled:
        (folder / "op.so").touch()
    lock = folder / "lock"
    lock.touch()
    made = time.time() - age_seconds
    os.utime(lock, (made, made))
    return lock


def test_only_old_locks_are_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [
        make_lock(tmp_path / "py311_cpu" / "op", COMPILE_SECONDS + 9, is_compiled=False),
        make_lock(tmp_path / "op", LOAD_SECONDS + 9, is_compiled=True),
    ]
    young = [
        make_lock(tmp_path / "other", COMPILE_SECONDS - 9, is_compiled=False),
        make_lock(tmp_path / "py311_cpu" / "other", LOAD_SECONDS - 9, is_compiled=True),
    ]
    remove_stale_locks(tmp_path)
    assert not any(lock.exists() for lock in old)
    assert all(lock.exists() for lock in young)
    assert (tmp_path / "op" / "op.so").exists()
    assert capsys.readouterr().err.count("was killed while it loaded a compiled op") == 2
    remove_stale_locks(tmp_path / "missing")


def test_the_lock_of_a_living_process_stays_however_old_it_is(tmp_path: Path) -> None:
    baton = FileBaton(str(tmp_path / "op" / "lock"))
    (tmp_path / "op").mkdir()
    assert baton.try_acquire()
    os.utime(tmp_path / "op" / "lock", (0, 0))
    remove_stale_locks(tmp_path)
    baton.release()  # would raise if the lock was gone
    assert not (tmp_path / "op" / "lock").exists()


def test_a_process_that_waits_for_a_dead_one_goes_on(tmp_path: Path) -> None:
    lock = make_lock(tmp_path / "op", LOAD_SECONDS + 1, is_compiled=True)
    waiting = threading.Thread(target=FileBaton(str(lock)).wait, daemon=True)
    waiting.start()
    with _without_stale_locks(tmp_path):
        waiting.join(timeout=60)
    assert not waiting.is_alive()


def test_torch_compiles_into_the_folder_of_this_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    roots = []
    for prefix in ("/envs/first", "/envs/second", "/envs/first"):
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")
        monkeypatch.setattr(sys, "prefix", prefix)
        use_own_build_folder()
        assert Path(_get_build_directory("op", verbose=False)) == build_root() / "op"
        roots.append(build_root())
    first, second, again = roots
    assert first == again != second
    assert first.parent == tmp_path / "torch_extensions"


def test_a_build_folder_of_the_user_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    use_own_build_folder()
    assert Path(_get_build_directory("op", verbose=False)) == build_root() / "op" == tmp_path / "op"


def test_torch_finds_the_ninja_of_this_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "ninja"
    other.write_text("#!/bin/sh\necho 1.0\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shutil.which("ninja") == str(other)
    use_own_ninja()
    path = os.environ["PATH"]
    assert shutil.which("ninja") == str(Path(ninja.BIN_DIR) / "ninja")
    use_own_ninja()
    assert os.environ["PATH"] == path
