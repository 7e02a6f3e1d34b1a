"""Lexicons: every reader with a faithful sample and with damage."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.errors import InputError
from dskd_ds.lexicon.merge import merge, relations_of
from dskd_ds.lexicon.sources import read_source
from dskd_ds.lexicon.table import SourceRows
from dskd_ds.spec.senses import LexiconSpec
from tests.conftest import TinyWorld

MYTHES = """\
UTF-8
happy|2
(adj)|glad|cheerful (similar term)|euphoric (related term)|unhappy (antonym)
(noun)|felicity|state (generic term)
vieux|1
(Nom)|papy (familier)|casser(se)
gastar|1
-|consumir|ahorrar (Ant\u00ef\u00bf\u00bdnimo)|guardar (Antónimo)
"""

WIKTEXTRACT = [
    {
        "word": "happy",
        "lang": "English",
        "lang_code": "en",
        "pos": "adj",
        "senses": [
            {
                "glosses": ["Having a feeling of well-being."],
                "synonyms": [{"word": "content", "tags": ["formal"]}],
                "antonyms": [{"word": "sad"}, {"word": "unhappy", "sense": "not content"}],
            }
        ],
        "synonyms": [
            {"word": "cheerful", "sense": "content"},
            {"word": "Thesaurus:happy"},
            {"english": "no word here"},
        ],
    },
    {
        "word": "unlit",
        "lang_code": "en",
        "pos": "adj",
        "senses": [{"glosses": ["Not lit."]}],
        "synonyms": [{"word": "dark"}],
    },
    {
        "word": "union",
        "lang_code": "en",
        "pos": "noun",
        "senses": [{"glosses": ["The act of uniting."]}],
    },
    {
        "word": "content",
        "lang_code": "fr",
        "lang": "French",
        "pos": "adj",
        "senses": [{"synonyms": [{"word": "joyeux"}]}],
    },
    {"title": "gladness", "redirect": "glad"},
]


def pairs(source: SourceRows) -> set[tuple[str, str, str]]:
    return {(row["word"], row["relation"], row["other"]) for row in source.table().to_pylist()}


def read(kind: str, path: Path, language: str = "en") -> SourceRows:
    return read_source(
        LexiconSpec.model_validate({"kind": kind, "path": str(path), "language": language})
    )


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_wordnet_sample(tiny: TinyWorld) -> None:
    source = read("wordnet", tiny.folder / "wordnet")
    merged = merge([source], {})
    relations = relations_of(merged.table)
    assert relations.synonyms["big"] == {"large"}
    assert relations.antonyms["big"] == {"small"}
    assert relations.antonyms["happy"] == {
        "unhappy",
        "sad",
    }  # sad: a synonym of unhappy, whose base happy is
    assert "depository financial institution" in relations.synonyms["bank"]
    assert {row["pos"] for row in source.table().to_pylist()} == {"a", "n"}
    assert merged.negations == {"unhappy": "happy"}


def test_damaged_wordnet_lines_are_counted_and_a_missing_file_is_named(
    tmp_path: Path, tiny: TinyWorld
) -> None:
    with pytest.raises(InputError, match=r"data\.noun cannot be read"):
        read("wordnet", tmp_path)
    for path in (tiny.folder / "wordnet").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "data.verb").open("ab") as file:
        file.write(
            b"00000001 00 v 0z broken\n00000002 00 v 02 cut 0\n00000003 00 v 01 caf\xe9 0 000 | not UTF-8\n"
        )
    source = read("wordnet", tmp_path)
    assert source.damage.num_malformed == 3
    assert "data.verb, line 3: this is no WordNet synset: '00000001" in source.damage.examples[0]
    assert "line 5: this is not utf-8" in source.damage.examples[2]
    assert pairs(source) == pairs(read("wordnet", tiny.folder / "wordnet"))


def test_mythes_sample(tmp_path: Path) -> None:
    expected = {
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
    source = read("mythes", written(tmp_path / "th.dat", MYTHES))
    assert pairs(source) == expected
    assert source.damage.num_malformed == 0
    assert {row["pos"] for row in source.table().to_pylist() if row["word"] == "cheerful"} == {"a"}
    latin = written(tmp_path / "latin.dat", "ISO8859-1\ncamión|1\n-|vehículo\n".encode("latin-1"))
    assert pairs(read("mythes", latin, "es")) == {("camión", "synonym", "vehículo")}


def test_damaged_mythes_goes_on_at_the_next_head(tmp_path: Path) -> None:
    text = b"UTF-8\nhappy|3\n(adj)|glad\nsad|1\n(adj)|blue\nstray line\n(adj)|too|many\n\xff|1\nold|1\n(adj)|aged\n"
    path = written(tmp_path / "th.dat", text)
    source = read("mythes", path)
    assert pairs(source) == {
        ("glad", "synonym", "happy"),
        ("blue", "synonym", "sad"),
        ("aged", "synonym", "old"),
    }
    assert source.damage.num_malformed == 4
    assert "line 4: 2 lines of meaning are missing" in source.damage.examples[0]
    with pytest.raises(InputError, match="'klingon' names no encoding"):
        read("mythes", written(tmp_path / "other.dat", "klingon\nhappy|1\n"))


def test_wiktextract_sample(tmp_path: Path) -> None:
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in WIKTEXTRACT)
    expected = {
        ("content", "synonym", "happy"),
        ("happy", "antonym", "sad"),
        ("happy", "antonym", "unhappy"),
        ("cheerful", "synonym", "happy"),
        ("dark", "synonym", "unlit"),
    }
    source = read("wiktextract", written(tmp_path / "en.jsonl", lines))
    assert pairs(source) == expected
    assert source.damage.num_malformed == 0
    assert source.num_unusable == 1
    assert source.verdicts == {"unlit": "lit", "union": None}
    assert (
        pairs(read("wiktextract", written(tmp_path / "en.jsonl.gz", gzip.compress(lines.encode()))))
        == expected
    )
    assert pairs(read("wiktextract", tmp_path / "en.jsonl", "fr")) == {
        ("content", "synonym", "joyeux")
    }


def test_damaged_wiktextract_is_counted(tmp_path: Path) -> None:
    good = json.dumps(WIKTEXTRACT[0]).encode()
    bad = [
        good[:100],
        b"[1, 2]",
        b'{"lang_code": "en"}',
        b'{"word": "x", "lang_code": "en", "senses": [{"synonyms": ["y"]}]}',
        b"\xff\xfe",
    ]
    source = read("wiktextract", written(tmp_path / "en.jsonl", b"\n".join([*bad, good])))
    assert source.damage.num_malformed == len(bad)
    assert all("en.jsonl, line" in example for example in source.damage.examples)
    assert len(pairs(source)) == 4
    cut = read("wiktextract", written(tmp_path / "cut.jsonl.gz", gzip.compress(good + b"\n")[:-8]))
    assert len(pairs(cut)) == 4
    assert "line 2: the compressed file ends" in cut.damage.examples[0]


def test_wiktextract_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(number: int) -> int:
        with (tmp_path / "big.jsonl").open("w") as file:
            for i in range(number):
                entry = WIKTEXTRACT[0] | {"word": f"word{i % 50} a", "etymology_text": "x" * 4000}
                file.write(json.dumps(entry) + "\n")
        tracemalloc.start()
        read("wiktextract", tmp_path / "big.jsonl")
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(100)
    assert peak(4000) < 2 * peak(400)  # 16 MB and 1.6 MB of text


def test_dict2vec_and_moby_and_tsv(tmp_path: Path) -> None:
    strong = written(
        tmp_path / "strong-pairs.txt", "car vehicle\nvehicle car\n\nthree words here\nlonely\n"
    )
    for path in (strong, tmp_path):
        source = read("dict2vec", path)
        assert pairs(source) == {("car", "synonym", "vehicle")}
        assert source.damage.num_malformed == 2
    with pytest.raises(InputError, match="weak pairs of Dict2Vec are no synonyms"):
        read("dict2vec", written(tmp_path / "weak-pairs.txt", "car road\n"))
    source = read(
        "moby",
        written(
            tmp_path / "words.txt", "a la mode,chic,a la mode,in vogue\nlonely\nHot Dog,frank,\n"
        ),
    )
    assert pairs(source) == {
        ("a la mode", "synonym", "chic"),
        ("a la mode", "synonym", "in vogue"),
        ("frank", "synonym", "hot dog"),
    }
    assert source.damage.num_malformed == 1
    text = "word\trelation\tother\tpos\n#\nBig\tsynonym\tlarge\ta\nbig\tantonym\tsmall\nbig\topposite\tsmall\nbig\tsynonym\nbig large\n"
    source = read("tsv", written(tmp_path / "own.tsv", text))
    assert pairs(source) == {("big", "synonym", "large"), ("big", "antonym", "small")}
    assert source.damage.num_malformed == 3


def test_nothing_left_is_an_error_that_names_the_first_damage(tmp_path: Path) -> None:
    for kind, text in (
        ("tsv", "a b c\n"),
        ("wiktextract", "{\n"),
        ("moby", "alone\n"),
        ("dict2vec", "one two three\n"),
    ):
        path = written(tmp_path / f"{kind}.txt", text)
        with pytest.raises(
            InputError,
            match=f'none of its 1 lines gives a pair .* malformed one: {path}, line 1(.|\n)*kind = "{kind}"',
        ):
            read(kind, path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read("tsv", tmp_path / "nowhere.tsv")


KEYS = st.sampled_from(["word", "lang_code", "senses", "synonyms", "glosses", "pos", "redirect"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=9,
)


@settings(max_examples=80, deadline=None)
@given(
    entry=JSON,
    broken=st.binary(max_size=40),
    kind=st.sampled_from(["wiktextract", "mythes", "moby", "tsv", "dict2vec"]),
)
def test_no_line_breaks_a_reader(
    entry: object, broken: bytes, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a line holds, the good one after it is read."""
    if isinstance(entry, dict):
        entry = {"lang_code": "en", "word": "x", **entry}
    good = {
        "wiktextract": json.dumps(WIKTEXTRACT[1]).encode(),
        "mythes": b"unlit|1\n(adj)|dark",
        "moby": b"unlit,dark",
        "tsv": b"unlit\tsynonym\tdark",
        "dict2vec": b"unlit dark",
    }[kind]
    path = tmp_path_factory.mktemp("garbage") / "file"
    first = b"UTF-8" if kind == "mythes" else b"#"
    path.write_bytes(b"\n".join([first, json.dumps(entry).encode(), broken, b"", good]))
    assert ("dark", "synonym", "unlit") in pairs(read(kind, path))
