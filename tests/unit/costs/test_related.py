"""How often a target has related words: counted in the files of a dictionary, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.costs.memory import run_signal
from dskd_ds.costs.plan import make_plan
from dskd_ds.costs.related import known_related_fraction
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.costs.traffic import related_fraction
from dskd_ds.errors import InputError
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.facts import SENSES_FILE, Facts
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.spec import RunSpec, load_spec
from tests.unit.conftest import D, V
from tests.unit.costs.test_memory import SHAPES


@pytest.fixture
def dictionary(tmp_path: Path) -> SenseDictionary:
    """Tokens with one or two senses, of different numbers of states, and a span."""
    folder = tmp_path / "senses"
    owners = np.repeat(np.arange(V), [1 + token % 2 for token in range(V)])
    relations = TokenRelations(
        synonyms={token: [(token + 1) % V, V] for token in range(0, V, 5)},
        antonyms={token: [(token + 7) % V] for token in range(0, V, 9)},
        spans=[(3, 4)],
    )
    senses = Senses(owners, torch.randn(len(owners), D), np.arange(1, len(owners) + 1))
    facts = Facts(vocab_size=V, layer=-1, teacher="t", tokenizer="z")
    write_dictionary(folder, senses, relations, facts, num_senses=2)
    return open_dictionary(folder)


def spec_of(folder: Path, *overrides: str) -> RunSpec:
    settings = [f"senses.dictionary={folder}", "senses.candidates=lexical", *overrides]
    return load_spec("tests/base_run.toml", settings)


def slow_fraction(dictionary: SenseDictionary) -> float:
    """Count state by state."""
    related = total = 0
    for token in range(dictionary.vocab_size):
        rows = dictionary.owner_rows(token)
        states = int(dictionary.sense_counts[rows].sum())
        total += states
        has_any = len(dictionary.synonyms.row(token)) + len(dictionary.antonyms.row(token)) > 0
        related += states if has_any else 0
    return related / total


def test_the_share_is_that_of_the_dictionarys_text(dictionary: SenseDictionary) -> None:
    spec = spec_of(dictionary.folder)
    expected = slow_fraction(dictionary)
    assert 0 < expected < 1
    assert known_related_fraction(spec) == pytest.approx(expected)
    assert related_fraction(spec, dictionary) == pytest.approx(expected)
    shares = {run_signal(spec, SHAPES).sense_share, run_signal(spec, SHAPES, expected).sense_share}
    assert len(shares) == 1
    planned = make_plan(spec, SHAPES, None).assumed
    assert any(
        sentence.startswith(f"{expected:.0%} of the positions")
        and sentence.endswith("as in the text of the dictionary")
        for sentence in planned
    )


def test_without_a_dictionary_a_share_is_assumed(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "none")
    assert known_related_fraction(spec) is None
    assumed = make_plan(spec, SHAPES, None).assumed
    assert "60% of the positions have a target with word relations" in assumed
    assert known_related_fraction(spec_of(tmp_path, "senses.candidates=neighbours")) == 1.0
    both = RunShapes(SHAPES.teacher, SHAPES.student)
    by_index = run_signal(spec_of(tmp_path, "senses.candidates=neighbours"), both)
    assert by_index.sense_share > run_signal(spec, both).sense_share


def test_a_damaged_file_is_named(dictionary: SenseDictionary) -> None:
    path = dictionary.folder / SENSES_FILE
    path.chmod(0o644)
    path.write_bytes(b"PK" + bytes(100))
    manifest = dictionary.folder / "manifest.json"
    os.utime(manifest, ns=(1, 1))  # another time: what was read before does not count
    with pytest.raises(InputError, match="this is not the file of a dictionary"):
        known_related_fraction(spec_of(dictionary.folder))


def test_torch_is_not_loaded(dictionary: SenseDictionary) -> None:
    code = (
        "import sys; from dskd_ds.costs.related import known_related_fraction as known;"
        " from dskd_ds.spec import load_spec;"
        " spec = load_spec('tests/base_run.toml', sys.argv[1:]);"
        " assert 0 < known(spec) < 1; assert 'torch' not in sys.modules"
    )
    overrides = [f"senses.dictionary={dictionary.folder}", "senses.candidates=lexical"]
    subprocess.run([sys.executable, "-c", code, *overrides], check=True)
