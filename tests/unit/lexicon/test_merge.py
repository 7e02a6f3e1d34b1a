"""Lexicons: negation, merging, the table on disk, the command."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.commands import cli
from dskd_ds.errors import InputError
from dskd_ds.lexicon.merge import Merged, merge, relations_of
from dskd_ds.lexicon.morpholex import num_negating, read_morpholex
from dskd_ds.lexicon.negation import base_of, looks_negated, negations
from dskd_ds.lexicon.sources import lexicon_digest, read_lexicon
from dskd_ds.lexicon.table import SourceRows, plain, read_table, write_table
from dskd_ds.quickstart.language import LANGUAGES
from dskd_ds.spec import dskd_home, load_spec
from dskd_ds.spec.senses import LexiconSpec, SensesSpec
from tests.conftest import TinyWorld
from tests.unit.lexicon.test_lexicon import read, written


def test_words_are_spelled_alike() -> None:
    assert [
        plain(w)
        for w in (
            "  Hot   Dog ",
            "E\u0301te\u0301",
            "Thesaurus:x",
            "123",
            "",
            "x" * 61,
            "se\ufffdor",
        )
    ] == ["hot dog", "été", "", "", "", "", ""]


def test_negating_affixes() -> None:
    assert [
        base_of(word)
        for word in (
            "unhappy",
            "fearless",
            "nonstop",
            "irregular",
            "non-slip",
            "un",
            "less",
            "into",
        )
    ] == ["happy", "fear", "stop", "regular", "slip", None, None, None]
    synonyms = {
        "dishonour": {"dishonor"},
        "honour": {"honor"},
        "flammable": {"inflammable"},
        "inflammable": {"flammable"},
    }
    cases = {
        "unlit": True,
        "fearless": True,
        "discover": False,
        "dishonour": True,
        "income": False,
        "insalubrious": True,
        "inflammable": False,
    }
    assert {word: looks_negated(word, str(base_of(word)), synonyms) for word in cases} == cases


def test_who_decides_on_a_negation() -> None:
    words = {"invaluable", "valuable", "unlit", "lit", "uneasy", "easy", "unrest", "rest"}
    assert (
        negations({}, {"invaluable": {"valuable"}}, words, {}, {"invaluable": False})["invaluable"]
        == "valuable"
    )  # stated
    assert "invaluable" not in negations(
        {}, {}, words, {"invaluable": "valuable"}, {"invaluable": False}
    )  # MorphoLEX before glosses
    assert "invaluable" not in negations(
        {"invaluable": {"valuable"}}, {}, words, {}, {"invaluable": True}
    )  # a synonym of its base
    assert "unlit" not in negations({}, {}, words, {"unlit": None}, {})  # glosses before the rule
    assert negations({}, {}, words, {}, {}) == {
        "unlit": "lit",
        "uneasy": "easy",
        "unrest": "rest",
        "invaluable": "valuable",
    }


def test_morpholex_export(tmp_path: Path) -> None:
    assert [
        num_negating(s)
        for s in (
            "{<un<(happy)>ness>}",
            "{<un<<dis<(cover)>ed>}",
            "{(care)>less>>ness>}",
            "{(uncle)}",
        )
    ] == [1, 2, 1, 0]
    for delimiter, name in ((",", "m.csv"), ("\t", "m.tsv"), (";", "m2.csv")):
        rows = [
            ["ELP_ItemID", "Word", "POS", "Nmorph", "MorphoLexSegm"],
            ["1", "Unhappy", "JJ", "2", "{<un<(happy)}"],
            ["2", "uncle", "NN", "1", "{(uncle)}"],
            ["3", "cut"],
            ["4", "undisciplined", "JJ", "4", "{<un<<dis<(ciple)>ed>}"],
        ]
        found, damage = read_morpholex(
            written(tmp_path / name, "\n".join(delimiter.join(row) for row in rows))
        )
        assert found == {"unhappy": True, "uncle": False, "undisciplined": False}
        assert damage.num_malformed == 1
    with pytest.raises(InputError, match="no columns Word and MorphoLexSegm"):
        read_morpholex(written(tmp_path / "x.csv", "a,b\n"))


VOCABULARY = [
    "happy",
    "unhappy",
    "lit",
    "unlit",
    "glad",
    "sad",
    "dark",
    "discover",
    "cover",
    "fear",
    "fearless",
    "chien",
]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["en", "fr"]),
        st.sampled_from(VOCABULARY),
        st.booleans(),
        st.sampled_from(VOCABULARY),
        st.sampled_from(["", "n", "adj"]),
        st.sampled_from(["one", "two", "three"]),
    ),
    max_size=25,
)
Row = tuple[str, str, bool, str, str, str]


def merged_of(rows: list[Row]) -> Merged:
    sources: dict[tuple[str, str], SourceRows] = {}
    for language, word, opposite, other, pos, name in rows:
        sources.setdefault((name, language), SourceRows(name, language)).add(
            word, other, opposite, pos
        )
    return merge(list(sources.values()), {"unlit": True})


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, data=st.data())
def test_merging_does_not_depend_on_order(rows: list[Row], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    turned = [
        (language, other, opposite, word, pos, name)
        for language, word, opposite, other, pos, name in shuffled
    ]
    first, second = merged_of(rows), merged_of(turned)
    assert first.table.equals(second.table)
    assert (first.negations, first.num_conflicts) == (second.negations, second.num_conflicts)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_merged_relations_are_symmetric_free_of_conflicts_and_say_whence(rows: list[Row]) -> None:
    """Against the slow way: sets of stated pairs, where the antonym wins; then what the affixes imply, where nothing is stated."""
    merged = merged_of(rows)
    relations = relations_of(merged.table)
    for table in (relations.synonyms, relations.antonyms):
        assert all(word in table[other] for word, others in table.items() for other in others)
    assert not any(
        relations.synonyms.get(word, set()) & others for word, others in relations.antonyms.items()
    )
    stated = {
        (frozenset((word, other)), opposite)
        for _, word, opposite, other, _, _ in rows
        if word != other
    }
    for pair, opposite in stated:
        word, other = sorted(pair)
        wins = opposite or (pair, True) not in stated
        assert (
            other in (relations.antonyms if opposite else relations.synonyms).get(word, set())
        ) == wins
    for row in merged.table.to_pylist():
        names = {
            name
            for language, word, _, other, _, name in rows
            if {word, other} == {row["word"], row["other"]}
        }
        listed = row["source"].split("+")
        assert listed == sorted(set(listed))
        assert {name for name in listed if "~" not in name} <= names
    pairs_of_both = {pair for pair, opposite in stated if opposite and (pair, False) in stated}
    assert merged.num_conflicts >= len(pairs_of_both)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS.filter(lambda rows: any(row[1] != row[3] for row in rows)))
def test_a_table_that_was_written_merges_to_itself(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    merged = merged_of(rows)
    path = tmp_path_factory.mktemp("table") / "words.parquet"
    write_table(path, merged.table, merged.negations)
    source = SourceRows("table:words.parquet", "en")
    read_table(path, source)
    again = merge([source], {})
    assert again.table.equals(merged.table)
    assert again.negations == merged.negations


def test_negation_flips_polarity_and_two_cancel() -> None:
    rows: list[Row] = [
        ("en", "unhappy", False, "sad", "a", "one"),
        ("en", "unhappy", False, "unlit", "a", "one"),
        ("en", "happy", False, "glad", "a", "one"),
        ("en", "lit", False, "bright", "a", "two"),
        ("en", "unhappy", True, "happy", "a", "two"),
    ]
    merged = merged_of(rows)
    relations = relations_of(merged.table)
    assert merged.negations == {"unhappy": "happy", "unlit": "lit"}
    assert relations.antonyms["happy"] == {"unhappy", "sad", "unlit"}
    assert relations.synonyms["happy"] == {"glad", "lit"}  # unhappy ~ unlit: both are negated
    source = {(row["word"], row["other"]): row["source"] for row in merged.table.to_pylist()}
    assert source["happy", "sad"] == "one~negation"
    french: list[Row] = [("fr", *row[1:]) for row in rows]
    assert merged_of(french).negations == {}


def test_what_is_stated_outranks_what_an_affix_implies() -> None:
    merged = merged_of(
        [("en", "unlit", False, "dark", "a", "one"), ("en", "lit", False, "dark", "a", "two")]
    )
    assert relations_of(merged.table).synonyms["lit"] == {"dark"}
    assert merged.num_conflicts == 1


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    for path in (
        tmp_path / "a.parquet",
        written(tmp_path / "b.parquet", "no Parquet"),
        tmp_path / "c.parquet",
    ):
        with pytest.raises(InputError, match="this is no table of word relations"):
            read("table", path)


def test_the_digest_is_of_content(tmp_path: Path) -> None:
    def digest(folder: str, text: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        path = written(tmp_path / folder / "own.tsv", text)
        return lexicon_digest(
            SensesSpec(dictionary="-", lexicons=(LexiconSpec(kind="tsv", path=str(path)),))
        )

    assert (
        digest("a", "big\tsynonym\tlarge\n")
        == digest("b", "big\tsynonym\tlarge\n")
        != digest("c", "big\tantonym\tlarge\n")
    )


def test_no_lexicon_is_an_empty_table() -> None:
    assert len(read_lexicon(SensesSpec(dictionary="-")).merged.table) == 0


def test_the_command_counts_and_writes(
    tmp_path: Path, tiny: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    own = written(tmp_path / "own.tsv", "city\tantonym\ttown\nbig\tsynonym\tmoney\nbroken\n")
    tree = tiny.spec_tree()
    lexicons = [*tree["senses"]["lexicons"], {"kind": "tsv", "path": str(own)}]  # type: ignore[index]
    spec_file = tmp_path / "spec.toml"
    spec_file.write_text(tomli_w.dumps(tree | {"senses": tree["senses"] | {"lexicons": lexicons}}))  # type: ignore[operator]
    output = tmp_path / "out" / "words.parquet"
    assert cli.main(["senses", "lexicon", str(spec_file), "--output", str(output)]) == 0
    shown = capsys.readouterr()
    lines = {line.split()[0]: line.split() for line in shown.out.splitlines() if line.strip()}
    assert lines["tsv:own.tsv"][1:9] == ["2", "4", "1", "1", "0", "0", "1", "0"]
    assert lines["wordnet:wordnet"][6] == "1"  # happy and sad, from unhappy and sad
    assert lines["merged"][5] == "1"  # city and town: WordNet calls them synonyms
    assert "with its leading space" in shown.out
    assert "own.tsv, line 3" in shown.err
    again = tmp_path / "again.toml"
    again.write_text(
        tomli_w.dumps(
            tree
            | {"senses": tree["senses"] | {"lexicons": [{"kind": "table", "path": str(output)}]}}
        )
    )  # type: ignore[operator]
    assert cli.main(["senses", "lexicon", str(again)]) == 0
    second = {
        line.split()[0]: line.split()
        for line in capsys.readouterr().out.splitlines()
        if line.strip()
    }
    assert second["merged"][1:5] == lines["merged"][1:5]
    assert "town" in relations_of(pq.read_table(output)).antonyms["city"]


@pytest.mark.parametrize("code", sorted(LANGUAGES))
def test_the_specs_of_languages_name_what_is_prepared(code: str) -> None:
    spec = load_spec(LANGUAGES[code].spec)
    folder = dskd_home() / "quickstart" / code
    assert [(lexicon.language, lexicon.path) for lexicon in spec.senses.lexicons] == [
        (code, str(folder / "thesaurus.dat"))
    ]
    assert [source.path for source in spec.data.train] == [str(folder / "wikipedia_leads.jsonl")]
