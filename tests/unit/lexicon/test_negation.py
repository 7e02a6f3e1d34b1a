"""Negations: affixes, who decides, MorphoLEX."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from dskd_ds.errors import InputError
from dskd_ds.lexicon.morpholex import Segmented, read_morpholex, segmented
from dskd_ds.lexicon.negation import base_of, looks_negated, negations
from tests.unit.lexicon.lexicon_files import write_file

WORDS = {"invaluable", "valuable", "unlit", "lit", "uneasy", "easy", "unrest", "rest"}


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("unhappy", "happy"),
        ("fearless", "fear"),
        ("nonstop", "stop"),
        ("irregular", "regular"),
        ("non-slip", "slip"),
        ("un", None),
        ("less", None),
        ("into", None),
    ],
)
def test_a_word_without_its_negating_affix(word: str, base: str | None) -> None:
    assert base_of(word) == base


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("unlit", True),
        ("fearless", True),
        ("discover", False),
        ("dishonour", True),
        ("income", False),
        ("insalubrious", True),
        ("inflammable", False),
    ],
)
def test_the_rule_for_words_without_glosses(word: str, expected: bool) -> None:
    synonyms = {
        "dishonour": {"dishonor"},
        "honour": {"honor"},
        "flammable": {"inflammable"},
        "inflammable": {"flammable"},
    }
    assert looks_negated(word, str(base_of(word)), synonyms) == expected


def test_a_stated_antonym_comes_before_morpholex() -> None:
    antonyms = {"invaluable": {"valuable"}}
    found = negations({}, antonyms, WORDS, {}, {"invaluable": False})
    assert found["invaluable"] == "valuable"


def test_morpholex_comes_before_glosses() -> None:
    verdicts: dict[str, str | None] = {"invaluable": "valuable"}
    assert "invaluable" not in negations({}, {}, WORDS, verdicts, {"invaluable": False})


def test_a_synonym_of_its_base_is_not_a_negation() -> None:
    synonyms = {"invaluable": {"valuable"}}
    assert "invaluable" not in negations(synonyms, {}, WORDS, {}, {"invaluable": True})


def test_glosses_come_before_the_rule() -> None:
    assert "unlit" not in negations({}, {}, WORDS, {"unlit": None}, {})


def test_the_rule_comes_last() -> None:
    assert negations({}, {}, WORDS, {}, {}) == {
        "unlit": "lit",
        "uneasy": "easy",
        "unrest": "rest",
        "invaluable": "valuable",
    }


LONG_LIST = ("un-", "anti-", "de-", "a-", "-less", "-free")


@pytest.mark.parametrize(
    ("segmentation", "is_negated", "base"),
    [
        ("{<un<(happy)>ness>}", True, "happyness"),
        ("{<un<<dis<(cover)>ed>}", False, "covered"),
        ("{(care)>less>>ness>}", True, "careness"),
        ("{(uncle)}", False, "uncle"),
        ("{<a<(typic)>al>}", False, "atypical"),
        ("{(Un)}{(less)}", False, "unless"),
    ],
)
def test_negating_affixes_are_counted(segmentation: str, is_negated: bool, base: str) -> None:
    assert segmented(segmentation) == Segmented(is_negated, base)


def test_the_list_of_affixes_decides() -> None:
    assert segmented("{<a<(typic)>al>}", LONG_LIST) == Segmented(True, "typical")
    assert segmented("{(sugar)>free>}", LONG_LIST) == Segmented(True, "sugar")
    assert segmented("{<dis<(like)}", LONG_LIST) == Segmented(False, "dislike")
    assert segmented("{<un<<anti<(toxic)}", LONG_LIST) == Segmented(False, "toxic")
    assert segmented("{<less<(on)}", LONG_LIST) == Segmented(False, "lesson")


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_morpholex_export_is_read(delimiter: str, tmp_path: Path) -> None:
    rows = [
        ["ELP_ItemID", "Word", "POS", "Nmorph", "MorphoLexSegm"],
        ["1", "Unhappy", "JJ", "2", "{<un<(happy)}"],
        ["2", "uncle", "NN", "1", "{(uncle)}"],
        ["3", "cut"],
        ["4", "undisciplined", "JJ", "4", "{<un<<dis<(ciple)>ed>}"],
    ]
    text = "\n".join(delimiter.join(row) for row in rows)
    found, counts = read_morpholex(write_file(tmp_path / "morpholex", text))
    assert found == {
        "unhappy": Segmented(True, "happy"),
        "uncle": Segmented(False, "uncle"),
        "undisciplined": Segmented(False, "cipleed"),
    }
    assert counts.num_malformed == 1


def test_a_file_without_morpholex_columns_is_an_error(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.csv", "a,b\n")
    with pytest.raises(InputError, match="no columns Word and MorphoLexSegm"):
        read_morpholex(path)


def test_a_workbook_is_read_sheet_by_sheet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["MorphoLEX is a database of 70,000 words"])
    for name, rows in (
        ("0-1-0", [["happy", "{(happy)}"], ["short"], [True, "{(true)}"]]),
        ("1-1-0", [["Unhappy", "{<un<(happy)}"], [None, None]]),
    ):
        sheet = book.create_sheet(name)
        sheet.append(["Word", "MorphoLexSegm", "POS"])
        for row in rows:
            sheet.append(row)
    book.create_sheet("All roots").append(["morpheme", "length"])
    path = tmp_path / "MorphoLEX_en.xlsx"
    book.save(path)
    found, counts = read_morpholex(path)
    assert found == {
        "happy": Segmented(False, "happy"),
        "true": Segmented(False, "true"),
        "unhappy": Segmented(True, "happy"),
    }
    assert counts.num_lines == 5
    assert counts.num_malformed == 1
    assert "line 3: sheet 0-1-0" in counts.examples[0]


def test_a_workbook_without_the_columns_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.xlsx"
    openpyxl.Workbook().save(path)
    with pytest.raises(InputError, match="no sheet has the columns Word and MorphoLexSegm"):
        read_morpholex(path)
    path.write_text("no workbook")
    with pytest.raises(InputError, match="not a workbook that can be read"):
        read_morpholex(path)
