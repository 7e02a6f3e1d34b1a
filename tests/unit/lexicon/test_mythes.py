"""The MyThes reader: a faithful sample, another encoding, damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from tests.unit.lexicon.lexicon_files import pairs_of, read_file, write_file

SAMPLE = """\
UTF-8
happy|2
(adj)|glad|cheerful (similar term)|euphoric (related term)|unhappy (antonym)
(noun)|felicity|state (generic term)
vieux|1
(Nom)|papy (familier)|casser(se)
gastar|1
-|consumir|ahorrar (Ant\u00ef\u00bf\u00bdnimo)|guardar (Antónimo)
"""


def test_sample(tmp_path: Path) -> None:
    source = read_file("mythes", write_file(tmp_path / "th.dat", SAMPLE))
    assert pairs_of(source) == {
        ("glad", "synonym", "happy"),
        ("cheerful", "synonym", "happy"),
        ("happy", "antonym", "unhappy"),
        ("felicity", "synonym", "happy"),
        ("papy", "synonym", "vieux"),
        ("casser", "synonym", "vieux"),
        ("consumir", "synonym", "gastar"),
        ("ahorrar", "antonym", "gastar"),
        ("gastar", "antonym", "guardar"),
    }
    assert source.line_counts.num_malformed == 0
    rows = source.table().to_pylist()
    assert {row["pos"] for row in rows if row["word"] == "cheerful"} == {"a"}


def test_the_encoding_of_the_first_line_is_used(tmp_path: Path) -> None:
    text = "ISO8859-1\ncamión|1\n-|vehículo\n"
    path = write_file(tmp_path / "latin.dat", text.encode("latin-1"))
    assert pairs_of(read_file("mythes", path, "es")) == {("camión", "synonym", "vehículo")}


def test_an_unknown_encoding_is_an_error(tmp_path: Path) -> None:
    path = write_file(tmp_path / "other.dat", "klingon\nhappy|1\n")
    with pytest.raises(InputError, match="'klingon' names no encoding"):
        read_file("mythes", path)


def test_reading_continues_at_the_next_head_after_damage(tmp_path: Path) -> None:
    lines = [
        b"UTF-8",
        b"happy|3",
        b"(adj)|glad",
        b"sad|1",
        b"(adj)|blue",
        b"stray line",
        b"(adj)|too|many",
        b"\xff|1",
        b"old|1",
        b"(adj)|aged",
    ]
    source = read_file("mythes", write_file(tmp_path / "th.dat", b"\n".join(lines) + b"\n"))
    assert pairs_of(source) == {
        ("glad", "synonym", "happy"),
        ("blue", "synonym", "sad"),
        ("aged", "synonym", "old"),
    }
    assert source.line_counts.num_malformed == 4
    assert "line 4: 2 lines of meaning are missing" in source.line_counts.examples[0]
