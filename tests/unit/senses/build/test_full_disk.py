"""A build on a full disk ends with one message: nothing is killed, and nothing cut off is kept."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from dskd_ds.errors import InputError
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.build import build
from dskd_ds.senses.build.full_disk import full_disk_as_input_error
from dskd_ds.senses.build.parts import Parts
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of

DISK = "/dev/full"
"""Whatever is written to it does not fit."""


def of_safetensors(*_: object) -> None:
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def of_the_quota(*_: object) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def senses_onto_a_full_disk(senses: Callable[[Parts], Any]) -> Callable[[Parts], Any]:
    """Return Parts.senses, of a folder where the joined centroids do not fit."""

    def onto_a_full_disk(parts: Parts) -> Any:
        (parts.folder / "centroids.bf16").symlink_to(DISK)
        return senses(parts)

    return onto_a_full_disk


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        ("build.parts.save_file", of_safetensors, r"parts-\w+: the clusters .* No space left"),
        ("build.parts.pq.write_table", of_the_quota, r"parts-\w+: the clusters .* quota exceeded"),
        (
            "build.parts.Parts.senses",
            senses_onto_a_full_disk(Parts.senses),
            r"parts-\w+: the clusters .* No space left",
        ),
        (
            "dictionary.tensors.os.posix_fallocate",
            of_the_quota,
            r"senses: the dictionary .* quota exceeded.*\n.* \[senses\] dictionary;",
        ),
        ("index.graph.GRAPH_FILE", DISK, r"senses: the index .* No space left"),
    ],
)
def test_a_build_ends_with_one_message(
    tiny: TinyWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    value: object,
    expected: str,
) -> None:
    spec = load_spec(tiny.spec_file, [f"senses.dictionary={tmp_path / 'senses'}"])
    with monkeypatch.context() as changed:
        changed.setattr(f"dskd_ds.senses.{target}", value)
        with pytest.raises(InputError, match=re.escape(str(tmp_path)) + f"/.*{expected}"):
            build(spec, teacher_of(spec), Communicator())
    assert not (tmp_path / "senses.partial").exists()
    for path in tmp_path.glob("**/centroids.bf16"):
        path.unlink()  # there is room again
    assert build(spec, teacher_of(spec), Communicator()) is not None


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for error in (PermissionError(errno.EACCES, "denied"), SafetensorError("invalid header")):
        with (
            pytest.raises(type(error)),
            full_disk_as_input_error(tmp_path, "collection", "collection_dir"),
        ):
            raise error
