"""`dskd senses lexicon`, the coverage of a vocabulary, and the prepared languages."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

from dskd_ds.commands import cli
from dskd_ds.lexicon.merge import Relations, relations_of
from dskd_ds.lexicon.relations import TokenRules, token_relations
from dskd_ds.lexicon.report import coverage, word_tokens
from dskd_ds.quickstart.language import LANGUAGES
from dskd_ds.spec import dskd_home, load_spec
from tests.conftest import TinyWorld
from tests.unit.lexicon.lexicon_files import write_file
from tests.unit.lexicon.tokenizer_kinds import byte_level


def write_spec(path: Path, tiny: TinyWorld, lexicons: list[dict[str, str]]) -> Path:
    """Write the tiny world's spec with other lexicons."""
    tree = tiny.spec_tree()
    senses = tree["senses"]
    assert isinstance(senses, dict)
    changed = tree | {"senses": senses | {"lexicons": lexicons}}
    path.write_text(tomli_w.dumps(changed))
    return path


def table_of(output: str) -> dict[str, list[str]]:
    """Return first word of a line -> all its words."""
    return {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}


def test_the_command_counts_and_writes(
    tmp_path: Path, tiny: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_file(tmp_path / "own.tsv", "city\tantonym\ttown\nbig\tsynonym\tmoney\nbroken\n")
    lexicons = [
        {"kind": "wordnet", "path": str(tiny.folder / "wordnet")},
        {"kind": "tsv", "path": str(own)},
    ]
    spec_file = write_spec(tmp_path / "spec.toml", tiny, lexicons)
    output = tmp_path / "out" / "words.parquet"
    assert cli.main(["senses", "lexicon", str(spec_file), "--output", str(output)]) == 0
    shown = capsys.readouterr()
    first = table_of(shown.out)
    assert first["tsv:own.tsv"][1:9] == ["2", "4", "1", "1", "0", "0", "1", "0"]
    assert first["wordnet:wordnet"][6] == "1"  # happy and sad, from unhappy and sad
    assert first["merged"][5] == "1"  # city and town: WordNet calls them synonyms
    assert "a word is written with its leading space;" in shown.out
    assert "own.tsv, line 3" in shown.err

    written = [{"kind": "table", "path": str(output)}]
    again = write_spec(tmp_path / "again.toml", tiny, written)
    assert cli.main(["senses", "lexicon", str(again)]) == 0
    second = table_of(capsys.readouterr().out)
    assert second["merged"][1:5] == first["merged"][1:5]
    assert "town" in relations_of(pq.read_table(output)).antonyms["city"]


def test_coverage_counts_only_whole_words() -> None:
    tokenizer = byte_level()
    relations = Relations()
    relations.add("happy", "glad", is_antonym=False)
    relations.add("happy", "sad", is_antonym=True)
    related = token_relations(relations, tokenizer, len(tokenizer), TokenRules(3))
    words = word_tokens(tokenizer)
    texts = {tokenizer.decode([token]) for token in words}
    assert {" happy", " glad", " house", " Happy"} <= texts
    for text in texts:
        if text.isascii():
            assert text.startswith(" ")
            assert text[1:].isalpha()
            assert len(text) > 3
    reach = coverage(words, related)
    assert set(related.words.values()) >= {"happy", "glad"}
    assert reach.synonyms == pytest.approx(len(related.synonyms.keys() & words) / len(words))
    assert 0 < reach.antonyms <= reach.either < 1


@pytest.mark.parametrize("code", sorted(LANGUAGES))
def test_the_specs_of_languages_name_the_files_that_are_prepared(code: str) -> None:
    spec = load_spec(LANGUAGES[code].spec)
    folder = dskd_home() / "quickstart" / code
    (lexicon,) = spec.senses.lexicons
    assert (lexicon.language, lexicon.path) == (code, str(folder / "thesaurus.dat"))
    assert [source.path for source in spec.data.train] == [str(folder / "wikipedia_leads.jsonl")]
