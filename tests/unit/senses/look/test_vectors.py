"""`dskd senses map --vectors`: which words and vectors are shown, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dskd_ds.commands import cli
from dskd_ds.errors import InputError
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.build import build
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.look.forms import words_with_senses
from dskd_ds.senses.look.vectors import MAX_VECTORS, choose_vectors, kept_vectors
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of


def test_words_come_with_their_synonyms(dictionary: SenseDictionary, tokenizer: Any) -> None:
    asked: list[int] = []

    def vectors_of(token: int) -> torch.Tensor:
        asked.append(token)
        return torch.full((40, 32), float(token))

    shown = choose_vectors(dictionary, tokenizer, ["happy", "bank"], vectors_of)
    happy = next(word for word in shown if word.text == "happy")
    synonyms = [word.text for word in shown if word.group == 0 and word.is_synonym]
    expected = {
        dictionary.owner_name(int(owner), tokenizer).strip()
        for owner in dictionary.synonyms.row(asked[0])
    }
    assert synonyms
    assert set(synonyms) <= expected
    assert not {"happy", "bank"} & set(synonyms)
    assert happy.vectors.shape == (MAX_VECTORS, 32)
    tokens_shown = [word for word in shown if len(word.vectors) == MAX_VECTORS]
    assert len(asked) == len(set(asked)) == len(tokens_shown)
    with pytest.raises(InputError, match="a map holds at most 8"):
        choose_vectors(dictionary, tokenizer, ["bank"] * 9, vectors_of)


def test_the_kept_vectors_are_those_of_the_senses(
    tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With as many senses as vectors, each vector that is not held out is a sense."""
    overrides = [
        f"senses.dictionary={tmp_path / 'senses'}",
        f"senses.collection_dir={tmp_path / 'kept'}",
        "senses.clustering=fixed",
        "senses.num_senses=50",
        "senses.vectors_per_token=50",
        "senses.collect_tokens=2048",
        f"run_dir={tmp_path / 'run'}",
    ]
    spec = load_spec(tiny.spec_file, overrides)
    teacher = teacher_of(spec)
    with pytest.raises(InputError, match=r"--vectors: the vectors .* are not kept"):
        kept_vectors(spec, teacher)
    facts = build(spec, teacher, Communicator())
    assert facts is not None
    vectors_of = kept_vectors(spec, teacher)
    dictionary = open_dictionary(spec.senses.dictionary)
    num_compared = 0
    for token in range(facts["vocab_size"]):
        senses = dictionary.senses[dictionary.owner_rows(token)]
        kept = {tuple(vector.tolist()) for vector in vectors_of(token)}
        assert {tuple(sense.tolist()) for sense in senses} <= kept
        num_compared += len(senses)
    assert num_compared > 100

    output = tmp_path / "map.png"
    settings = [part for value in overrides for part in ("--set", value)]
    words = list(words_with_senses(dictionary, teacher.tokenizer).values())[:3]
    argv = ["senses", "map", str(tiny.spec_file), *words, "--vectors", "--output", str(output)]
    assert cli.main([*argv, *settings]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    assert f"vectors of {words[0]}" in capsys.readouterr().out
