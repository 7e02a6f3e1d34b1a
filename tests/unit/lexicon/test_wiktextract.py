"""The Wiktextract reader: a faithful sample, compressed files, damage, bounded memory."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

from tests.unit.lexicon.lexicon_files import WIKTEXTRACT, pairs_of, read_file, write_file

LINES = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in WIKTEXTRACT)
ENGLISH_PAIRS = {
    ("content", "synonym", "happy"),
    ("happy", "antonym", "sad"),
    ("happy", "antonym", "unhappy"),
    ("cheerful", "synonym", "happy"),
    ("dark", "synonym", "unlit"),
}


def test_sample(tmp_path: Path) -> None:
    path = write_file(tmp_path / "en.jsonl", LINES)
    source = read_file("wiktextract", path)
    assert pairs_of(source) == ENGLISH_PAIRS
    assert source.line_counts.num_malformed == 0
    assert source.num_unusable == 1
    assert source.verdicts == {"unlit": "lit", "union": None}
    assert pairs_of(read_file("wiktextract", path, "fr")) == {("content", "synonym", "joyeux")}


def test_a_compressed_file_gives_the_same(tmp_path: Path) -> None:
    path = write_file(tmp_path / "en.jsonl.gz", gzip.compress(LINES.encode()))
    assert pairs_of(read_file("wiktextract", path)) == ENGLISH_PAIRS


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    good = json.dumps(WIKTEXTRACT[0]).encode()
    bad = [
        good[:100],
        b"[1, 2]",
        b'{"lang_code": "en"}',
        b'{"word": "x", "lang_code": "en", "senses": [{"synonyms": ["y"]}]}',
        b"\xff\xfe",
    ]
    path = write_file(tmp_path / "en.jsonl", b"\n".join([*bad, good]))
    source = read_file("wiktextract", path)
    assert source.line_counts.num_malformed == len(bad)
    assert all("en.jsonl, line" in example for example in source.line_counts.examples)
    assert len(pairs_of(source)) == 4


def test_a_truncated_compressed_file_is_read_as_far_as_possible(tmp_path: Path) -> None:
    line = json.dumps(WIKTEXTRACT[0]).encode() + b"\n"
    path = write_file(tmp_path / "cut.jsonl.gz", gzip.compress(line)[:-8])
    source = read_file("wiktextract", path)
    assert len(pairs_of(source)) == 4
    assert "line 2: the compressed file ends early" in source.line_counts.examples[0]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak_bytes(num_entries: int) -> int:
        path = tmp_path / "big.jsonl"
        with path.open("w") as file:
            for i in range(num_entries):
                changed = {"word": f"word{i % 50} a", "etymology_text": "x" * 4000}
                file.write(json.dumps(WIKTEXTRACT[0] | changed) + "\n")
        tracemalloc.start()
        read_file("wiktextract", path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(100)  # the first read also imports
    assert peak_bytes(4000) < 2 * peak_bytes(400)  # 16 MB and 1.6 MB of text
