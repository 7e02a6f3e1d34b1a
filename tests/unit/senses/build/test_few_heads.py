"""A tokenizer that has hardly a word of the lexicons as one token is refused before the reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.build import build
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of


def test_a_build_without_heads_is_refused(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tmp_path / "words.tsv"
    words.write_text("unpronounceable\tsynonym\tinexpressible\n")
    overrides = [
        f'senses.lexicons=[{{kind="tsv", path="{words}"}}]',
        f"senses.dictionary={tmp_path / 'senses'}",
    ]
    spec = load_spec(tiny.spec_file, overrides)

    def not_yet(*_: object) -> None:
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr("dskd_ds.senses.build.corpora.load_frozen", not_yet)
    with pytest.raises(InputError, match="of 2 words only 0 are a single token"):
        build(spec, teacher_of(spec), Communicator())
    assert not (tmp_path / "senses").exists()
