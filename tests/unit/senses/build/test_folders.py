"""Work folders of a build, and the lock against a second launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.folders import RankZeroLock, forget_work, work_folders
from dskd_ds.senses.dictionary.identity import dictionary_key
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of, train_blocks_of


@pytest.mark.parametrize("kept", [False, True])
def test_work_folders_are_deleted_once_the_dictionary_is_complete(
    tiny: TinyWorld, tmp_path: Path, kept: bool
) -> None:
    overrides = [f"senses.dictionary={tmp_path / 'senses'}"]
    if kept:
        overrides.append(f"senses.collection_dir={tmp_path / 'kept'}")
    spec = load_spec(tiny.spec_file, overrides)
    key = dictionary_key(spec, teacher_of(spec), train_blocks_of(spec), Communicator())
    folders = work_folders(spec, key)
    (collection,), parts = folders.collections, folders.parts
    (collection / "rank-0000").mkdir(parents=True)
    parts.mkdir()
    forget_work(spec, key)
    assert not parts.exists()
    assert (collection / "rank-0000").is_dir() == kept


def test_a_second_launch_is_refused_while_the_first_has_the_lock(tmp_path: Path) -> None:
    folder, comm = str(tmp_path / "senses"), Communicator()
    with RankZeroLock("dictionary", folder, comm):
        with (
            pytest.raises(InputError, match="but another process is building it"),
            RankZeroLock("dictionary", folder, comm),
        ):
            pass
        with RankZeroLock("collection_dir", folder, comm, "another-part"):
            pass
    with RankZeroLock("dictionary", folder, comm):
        pass
