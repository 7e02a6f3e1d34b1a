"""`dskd senses lexicon get`: from a server, from local copies, and what is refused."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest

from dskd_ds.commands import cli
from dskd_ds.files.hashes import file_sha256
from dskd_ds.lexicon.resources import RESOURCES, Download
from dskd_ds.spec.lexicons import LexiconSpec
from tests.conftest import TinyWorld

PAIRS = {"syn-pairs.txt": "big large\nglad happy\n", "ant-pairs.txt": "hot cold\nlonely\n"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder on this machine; yields the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def get(*argv: str) -> int:
    return cli.main(["senses", "lexicon", "get", *argv])


def test_a_lexicon_is_downloaded_and_read(
    served: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, address = served
    for name, text in PAIRS.items():
        (folder / name).write_text(text)
    downloads = tuple(
        replace(download, url=f"{address}/{download.name}")
        for download in RESOURCES["pairs"].downloads
    )
    monkeypatch.setitem(RESOURCES, "pairs", replace(RESOURCES["pairs"], downloads=downloads))
    output = tmp_path / "pairs"
    assert get("pairs", "--output", str(output)) == 0
    shown = capsys.readouterr().out
    for name, text in PAIRS.items():
        assert (output / name).read_text() == text
        assert f"sha256 {file_sha256(output / name)}\n" in shown
    assert "3 pairs; 1 of 4 lines are malformed" in shown
    section = tomllib.loads(shown.split("Use it in a spec:")[1])["senses"]["lexicons"][0]
    assert LexiconSpec.model_validate(section).synonyms == str(output / "syn-pairs.txt")
    origin = json.loads((output / "origin.json").read_text())
    assert origin["licence"] == RESOURCES["pairs"].licence
    assert origin["sha256"]["ant-pairs.txt"] == file_sha256(output / "ant-pairs.txt")

    (folder / "ant-pairs.txt").write_text("hot cold\n")
    assert get("pairs", "--output", str(output)) == 0
    again = capsys.readouterr().out
    assert again.count("(as before)") == 1
    assert again.count("(ANOTHER CONTENT than the last time)") == 1


def test_no_network_names_the_page(
    tmp_path: Path,
    served: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = (Download("MorphoLEX_en.xlsx", f"{served[1]}/nothing.xlsx"),)
    changed = replace(RESOURCES["morpholex"], downloads=missing)
    monkeypatch.setitem(RESOURCES, "morpholex", changed)
    assert get("morpholex", "--output", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "cannot be downloaded" in error
    assert f"from {changed.page} on a machine with a network" in error
    assert not list((tmp_path / "out").iterdir())


def test_a_local_workbook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in (["Word", "MorphoLexSegm"], ["unhappy", "{<un<(happy)}"], ["sad", "{(sad)}"]):
        book.active.append(row)
    book.save(tmp_path / "copy.xlsx")
    output = tmp_path / "out"
    assert get("morpholex", "--file", str(tmp_path / "copy.xlsx"), "--output", str(output)) == 0
    shown = capsys.readouterr().out
    assert "NOT FOR COMMERCIAL USE" in shown
    assert "2 words, 1 of them negated" in shown
    assert f'morpholex = "{output / "MorphoLEX_en.xlsx"}"' in shown


def test_a_local_archive_is_unpacked(
    tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "WNdb-3.0.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tiny.folder / "wordnet", "dict")
        outside = tarfile.TarInfo("../outside")
        packed.addfile(outside, io.BytesIO())
    output = tmp_path / "out"
    assert get("wordnet", "--file", str(archive), "--output", str(output)) == 0
    assert (output / "dict" / "data.noun").is_file()
    assert not (tmp_path / "outside").exists()
    assert f'path = "{output / "dict"}"' in capsys.readouterr().out


def test_what_is_refused(
    tmp_path: Path, tiny: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--output", str(tmp_path / "out"))
    assert get("nothing", *out) == 2
    assert "use one of wordnet, wiktionary, pairs, morpholex" in capsys.readouterr().err
    assert get("pairs", "--file", "one.txt", *out) == 2
    assert "1 files are given, but pairs has 2: syn-pairs.txt, ant-pairs" in capsys.readouterr().err
    assert get("morpholex", "--file", "missing.xlsx", *out) == 2
    assert "--file missing.xlsx: it cannot be copied" in capsys.readouterr().err
    file = tmp_path / "file"
    file.touch()
    assert get("morpholex", "--file", "missing.xlsx", "--output", str(file)) == 2
    assert f"--output {file}: it cannot be written: {file} is not" in capsys.readouterr().err
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_text("no archive")
    assert get("wordnet", "--file", str(damaged), *out) == 2
    assert "not an archive with a folder dict/" in capsys.readouterr().err
    assert cli.main(["senses", "lexicon", str(tiny.spec_file), "pairs"]) == 2
    assert "only follow `get`" in capsys.readouterr().err


def test_the_list_has_every_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert get() == 0
    shown = capsys.readouterr().out
    for name, resource in RESOURCES.items():
        assert f"{name}: " in shown
        assert resource.licence in shown
        assert resource.page in shown
