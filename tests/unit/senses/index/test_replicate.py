"""Node-local copies: made once, refused or made again if something differs.

Readers keep working when the files that they opened are replaced or deleted.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.errors import InputError
from dskd_ds.senses.dictionary.dictionary import SENSES_FILE, open_dictionary
from dskd_ds.senses.index.graph import knn, load_graph, load_projection
from dskd_ds.senses.index.replicate import local_copy
from tests.unit.senses.index.small import Folders, build


def test_a_copy_is_complete_and_made_once(folders: Folders) -> None:
    folder, num_bytes = local_copy(*folders)
    files = [p.relative_to(folders.source) for p in folders.source.rglob("*") if p.is_file()]
    assert {name.name for name in files} >= {
        "senses.safetensors",
        "contexts.parquet",
        "graph.bin",
        "manifest.json",
    }
    assert all(
        (folder / name).read_bytes() == (folders.source / name).read_bytes() for name in files
    )
    without_manifests = [name for name in files if not name.name.startswith("manifest")]
    assert num_bytes == sum((folders.source / name).stat().st_size for name in without_manifests)
    assert local_copy(*folders) == (folder, 0)
    assert load_graph(open_dictionary(folder)).get_current_count() == 90
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]


def test_a_rebuilt_dictionary_is_copied_again(folders: Folders) -> None:
    before, _ = local_copy(*folders)
    build(folders.source, seed=1)
    after, num_bytes = local_copy(*folders)
    assert after != before
    assert num_bytes > 0
    assert not torch.equal(open_dictionary(before).senses, open_dictionary(after).senses)


@pytest.mark.parametrize("name", [SENSES_FILE, "index/graph.bin"])
def test_an_altered_source_is_refused(folders: Folders, name: str) -> None:
    content = bytearray((folders.source / name).read_bytes())
    content[-1] ^= 1
    (folders.source / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: its content differs from its manifest"):
        local_copy(*folders)
    assert not any(path.is_dir() for path in folders.local.glob("*/senses-*"))


@pytest.mark.parametrize("damage", ["alter", "truncate", "remove"])
def test_a_damaged_copy_is_not_used(folders: Folders, damage: str) -> None:
    folder, total = local_copy(*folders)
    path = folder / SENSES_FILE
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        altered_byte = bytes([content[-1] ^ 1]) if damage == "alter" else b""
        path.write_bytes(content[:-1] + altered_byte)
        with pytest.raises(InputError, match=str(path)):
            open_dictionary(folder)
    assert local_copy(*folders) == (folder, total)
    assert path.read_bytes() == content


def test_the_error_names_what_cannot_be_copied(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        local_copy(folders.source / "nowhere", folders.local)
    with pytest.raises(InputError, match="this variable is not set on this node"):
        local_copy(folders.source, Path("$NOWHERE_DIR/senses"))
    blocked = folders.source / "manifest.json"
    with pytest.raises(InputError, match=r"local_dir = .*but copying"):
        local_copy(folders.source, blocked / "below_a_file")
    usage = shutil.disk_usage(folders.source)._replace(free=1000)
    local_copy(*folders)
    build(folders.source, seed=2)
    monkeypatch.setattr("dskd_ds.senses.index.replicate.shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        InputError,
        match=r"takes 0\.00 GB and only 0\.00 GB are free\.\n.*delete copies .*\(dskd-\d+/senses-",
    ):
        local_copy(*folders)


def test_concurrent_callers_share_one_copy(folders: Folders) -> None:
    results: list[tuple[Path, int]] = []
    threads = [
        threading.Thread(target=lambda: results.append(local_copy(*folders))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({folder for folder, _ in results}) == 1
    assert sorted(num_bytes > 0 for _, num_bytes in results) == [False] * 5 + [True]


def test_a_copy_that_never_ends_has_a_deadline(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    folder, _ = local_copy(*folders)
    monkeypatch.setattr("dskd_ds.senses.index.replicate.GRACE_SECONDS", 0.05)
    with FileLock(f"{folder}.lock"), pytest.raises(InputError, match="has not finished this copy"):
        local_copy(*folders)


@pytest.mark.parametrize("event", ["deleted", "rebuilt"])
def test_a_reader_is_not_disturbed(folders: Folders, event: str) -> None:
    """Without a local copy too, what is mapped or loaded stays."""
    dictionary = open_dictionary(folders.source)
    graph, projection = load_graph(dictionary), load_projection(dictionary)
    queries = torch.randn(5, 16, generator=torch.Generator().manual_seed(5))
    rows = dictionary.senses.clone()
    found = knn(graph, projection(queries), 10)
    if event == "deleted":
        shutil.rmtree(folders.source)
    else:
        build(folders.source, seed=3)
    assert torch.equal(dictionary.senses, rows)
    np.testing.assert_array_equal(knn(graph, projection(queries), 10), found)


def test_an_index_of_another_dictionary_is_refused(folders: Folders, tmp_path: Path) -> None:
    """Both have as many senses, so that only the digest differs."""
    build(tmp_path / "other", seed=4)
    shutil.rmtree(folders.source / "index")
    shutil.copytree(tmp_path / "other" / "index", folders.source / "index")
    with pytest.raises(InputError, match="was built from another dictionary"):
        load_graph(open_dictionary(folders.source))
