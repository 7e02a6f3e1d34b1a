"""Locks of killed processes are removed, so that no later run waits for them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dskd_ds.runtime.world import STALE_SECONDS, build_root, remove_stale_locks


def test_only_old_locks_are_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ages = {"py311_cpu/old_op": STALE_SECONDS + 60, "other_op": STALE_SECONDS + 60, "new_op": 0}
    for folder, age in ages.items():
        lock = tmp_path / folder / "lock"
        lock.parent.mkdir(parents=True)
        lock.touch()
        made = time.time() - age
        os.utime(lock, (made, made))
    (tmp_path / "other_op" / "op.so").touch()
    remove_stale_locks(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["new_op/lock", "other_op/op.so"]
    assert capsys.readouterr().err.count("11 minutes old") == 2
    remove_stale_locks(tmp_path / "missing")


def test_the_folder_is_the_one_that_torch_uses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (None, str(tmp_path / "mine")):
        if given:
            monkeypatch.setenv("TORCH_EXTENSIONS_DIR", given)
        folder = Path(_get_build_directory("op", verbose=False))
        (folder / "lock").touch()
        os.utime(folder / "lock", (0, 0))
        remove_stale_locks(build_root())
        assert not (folder / "lock").exists()
