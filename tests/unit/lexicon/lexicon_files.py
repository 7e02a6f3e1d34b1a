"""Write lexicon files for tests and read them; one Wiktextract sample is used by several tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dskd_ds.lexicon.sources import read_source
from dskd_ds.lexicon.table import SourceRows
from dskd_ds.spec.lexicons import LexiconSpec

WIKTEXTRACT: list[dict[str, Any]] = [
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


def pairs_of(source: SourceRows) -> set[tuple[str, str, str]]:
    """Return the (word, relation, other) of every row of a source."""
    return {(row["word"], row["relation"], row["other"]) for row in source.table().to_pylist()}


def read_file(kind: str, path: Path, language: str = "en") -> SourceRows:
    """Read a lexicon of a kind, as a spec that names it would."""
    tree = {"kind": kind, "path": str(path), "language": language}
    return read_source(LexiconSpec.model_validate(tree))


def write_file(path: Path, content: str | bytes) -> Path:
    """Write the content and return the path."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
