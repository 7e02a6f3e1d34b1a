"""`dskd senses bench`: its list of benches, its output, and the accounting of mapped memory."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import pytest

from dskd_ds.bench import senses
from dskd_ds.bench.measure import Figure
from dskd_ds.bench.pages import mapped_bytes
from dskd_ds.commands.cli import main
from tests.conftest import TinyWorld


def test_mapped_bytes_counts_the_pages_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(b"x" * 40_960)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert sum(view[::4096]) == 10 * ord("x")
        assert mapped_bytes(os.getpid(), path, "Rss") == 40_960
        assert 0 < mapped_bytes(os.getpid(), path, "Pss") <= 40_960
    assert mapped_bytes(os.getpid(), path, "Rss") == 0


def test_only_the_json_goes_to_stdout(
    tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benches = {
        "one": lambda spec: [Figure(key="a", what=spec.name, value=2.0, target=1.0)],
        "two": lambda _: [Figure(key="b", what="", value=1.0)],
    }
    monkeypatch.setattr(senses, "BENCHES", benches)
    assert main(["senses", "bench", str(tiny.spec_file), "--only", "one", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["a"] == 2.0
    assert printed["details"]["a"]["what"] == "tiny"
    assert "b" not in printed


def test_an_unknown_bench_is_an_error_that_lists_all(
    tiny: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["senses", "bench", str(tiny.spec_file), "--only", "nothing"]) == 2
    assert "use one of: lookup, index, pages" in capsys.readouterr().err
