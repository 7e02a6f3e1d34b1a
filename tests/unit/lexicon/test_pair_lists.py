"""The readers of lists of pairs: Dict2Vec, Moby, tab-separated text."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.lexicon.sources import read_source
from dskd_ds.spec.lexicons import LexiconSpec
from tests.unit.lexicon.lexicon_files import pairs_of, read_file, write_file


def test_dict2vec(tmp_path: Path) -> None:
    text = "car vehicle\nvehicle car\n\nthree words here\nlonely\n"
    file = write_file(tmp_path / "strong-pairs.txt", text)
    for path in (file, tmp_path):
        source = read_file("dict2vec", path)
        assert pairs_of(source) == {("car", "synonym", "vehicle")}
        assert source.line_counts.num_malformed == 2


def test_weak_pairs_of_dict2vec_are_rejected(tmp_path: Path) -> None:
    path = write_file(tmp_path / "weak-pairs.txt", "car road\n")
    with pytest.raises(InputError, match="weak pairs are not synonyms"):
        read_file("dict2vec", path)


def test_antonyms_of_the_dict2vec_format_are_rejected(tmp_path: Path) -> None:
    path = write_file(tmp_path / "ant-pairs.txt", "hot cold\n")
    with pytest.raises(InputError, match="would read its antonyms as synonyms"):
        read_file("dict2vec", path)


def test_pairs(tmp_path: Path) -> None:
    synonyms = write_file(tmp_path / "syn.txt", "car vehicle\nvehicle car\n\nthree words here\n")
    antonyms = write_file(tmp_path / "ant.txt", "Hot\tcold\nlonely\n")
    both = LexiconSpec(kind="pairs", synonyms=str(synonyms), antonyms=str(antonyms))
    source = read_source(both)
    assert pairs_of(source) == {("car", "synonym", "vehicle"), ("cold", "antonym", "hot")}
    assert source.line_counts.num_malformed == 2
    as_written = read_source(both, as_written=True)
    assert ("Hot", "antonym", "cold") in pairs_of(as_written)
    only = read_source(LexiconSpec(kind="pairs", antonyms=str(antonyms)))
    assert pairs_of(only) == {("cold", "antonym", "hot")}


def test_moby(tmp_path: Path) -> None:
    text = "a la mode,chic,a la mode,in vogue\nlonely\nHot Dog,frank,\n"
    source = read_file("moby", write_file(tmp_path / "words.txt", text))
    assert pairs_of(source) == {
        ("a la mode", "synonym", "chic"),
        ("a la mode", "synonym", "in vogue"),
        ("frank", "synonym", "hot dog"),
    }
    assert source.line_counts.num_malformed == 1


def test_tsv(tmp_path: Path) -> None:
    lines = [
        "word\trelation\tother\tpos",
        "#",
        "Big\tsynonym\tlarge\ta",
        "big\tantonym\tsmall",
        "big\topposite\tsmall",
        "big\tsynonym",
        "big large",
    ]
    source = read_file("tsv", write_file(tmp_path / "own.tsv", "\n".join(lines) + "\n"))
    assert pairs_of(source) == {("big", "synonym", "large"), ("big", "antonym", "small")}
    assert source.line_counts.num_malformed == 3
