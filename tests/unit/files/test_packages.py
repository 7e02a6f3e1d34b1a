"""Packages are fetched by one process at a time."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from dskd_ds.files import packages
from dskd_ds.files.packages import Package, fetch

CONTENT = b"what the package holds"
PACKAGE = Package(
    client="pip",
    name="some-package",
    version="1",
    content="file",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    megabytes=1,
)


@pytest.mark.parametrize(("second_target", "num_fetched"), [("target", 1), ("another", 2)])
def test_two_that_need_a_package_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second_target: str, num_fetched: int
) -> None:
    """The second comes while the first downloads, for the same file or another of the package."""
    fetched: list[Path] = []
    has_second_come = threading.Event()

    def lock(path: Path) -> FileLock:
        if fetched:
            has_second_come.set()
        return FileLock(path)

    def download(package: Package, work: Path) -> Path:
        fetched.append(work)
        if len(fetched) == 1:
            second.append(pool.submit(fetch, package, tmp_path / second_target))
            assert has_second_come.wait(60)
        else:
            has_second_come.set()
        content = work / package.content
        content.write_bytes(CONTENT)
        return content

    monkeypatch.setattr(packages, "FileLock", lock, raising=False)
    monkeypatch.setattr(packages, "_fetch_with_pip", download)
    second = []
    with ThreadPoolExecutor(1) as pool:
        assert fetch(PACKAGE, tmp_path / "target").read_bytes() == CONTENT
        assert second[0].result(60).read_bytes() == CONTENT
    assert len(fetched) == num_fetched
