"""Lexicons that `dskd senses lexicon get` knows: where each comes from, and under which licence.

None of them is part of this package. The facts were read in 2026 on the projects' public pages; the
licence that counts is the one that a project's page states when you download.
"""

from __future__ import annotations

from dataclasses import dataclass

from dskd_ds.spec.lexicons import LexiconKind


@dataclass(frozen=True)
class Download:
    """One file of a lexicon."""

    name: str
    """Its name in the folder."""
    url: str
    relation: str = "path"
    """The key of [[senses.lexicons]] that names the file."""


@dataclass(frozen=True)
class Resource:
    """A lexicon that can be downloaded from a public project page."""

    what: str
    page: str
    licence: str
    downloads: tuple[Download, ...]
    kind: LexiconKind | None
    """Its kind in [[senses.lexicons]]; None for MorphoLEX, which [senses] morpholex names."""
    settings: str = ""
    """Further keys of [[senses.lexicons]] that the paper's way with it needs."""
    conversion: str = "none: it is read as it is"
    is_archive: bool = False
    """Whether the file is a `.tar.gz` that must be unpacked."""
    folder: str = ""
    """The folder inside of the archive that [[senses.lexicons]] path names."""


HG2VEC = "https://raw.githubusercontent.com/Qitong-Wang/HG2Vec/HEAD/input"

RESOURCES: dict[str, Resource] = {
    "wordnet": Resource(
        what="WordNet 3.0: synonyms, antonyms and glosses of 155,000 English words",
        page="https://wordnet.princeton.edu/download/current-version",
        licence="WordNet 3.0 licence: any use, with the notice",
        downloads=(
            Download("WNdb-3.0.tar.gz", "https://wordnetcode.princeton.edu/3.0/WNdb-3.0.tar.gz"),
        ),
        kind="wordnet",
        conversion="the archive is unpacked; the folder dict/ is read",
        is_archive=True,
        folder="dict",
    ),
    "wiktionary": Resource(
        what="the English Wiktionary as JSON lines by Wiktextract (paper); several gigabytes",
        page="https://kaikki.org/dictionary/English/",
        licence="CC BY-SA and GFDL, as Wiktionary",
        downloads=(
            Download(
                "kaikki.org-dictionary-English.jsonl",
                "https://kaikki.org/dictionary/English/kaikki.org-dictionary-English.jsonl",
            ),
        ),
        kind="wiktextract",
        settings='lists = "senses"  # the paper reads these lists only\n',
        conversion="none: it is read as it is, also as .gz (dskd senses lexicon --output is faster"
        " to read again)",
    ),
    "pairs": Resource(
        what="124,000 lines of synonyms and 17,000 of antonyms in Dict2Vec's format, from HG2Vec"
        " (probably the paper's)",
        page="https://github.com/Qitong-Wang/HG2Vec",
        licence="the project page states none: ask its authors before you pass the files on",
        downloads=(
            Download("syn-pairs.txt", f"{HG2VEC}/syn-pairs.txt", relation="synonyms"),
            Download("ant-pairs.txt", f"{HG2VEC}/ant-pairs.txt", relation="antonyms"),
        ),
        kind="pairs",
    ),
    "morpholex": Resource(
        what="MorphoLEX-en: morphemes of 70,000 English words (paper)",
        page="https://github.com/hugomailhot/MorphoLex-en",
        licence="CC BY-NC-SA 4.0: NOT FOR COMMERCIAL USE",
        downloads=(
            Download(
                "MorphoLEX_en.xlsx",
                "https://github.com/hugomailhot/MorphoLex-en/raw/master/MorphoLEX_en.xlsx",
            ),
        ),
        kind=None,
        conversion="none: all sheets of the workbook are read (pip install 'dskd-ds[lexicon]')",
    ),
}
