"""`dskd senses eval`: layers, and the command on two known dictionaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.commands import cli
from dskd_ds.errors import InputError
from dskd_ds.models.resolve import model_fingerprint, tokenizer_fingerprint
from dskd_ds.senses.intrinsic.evaluate import resolve_layers
from tests.conftest import TinyWorld
from tests.unit.senses.intrinsic.known import LEMMAS, known_dictionary, write_examples

RATINGS = "bank\tmoney\t9\nbank\triver\t6\nbig\tlarge\t8\ncity\tcold\t1\n"


def test_layers_count_from_either_end() -> None:
    assert resolve_layers([0, -1, 2, 4], 4) == [0, 2, 4]
    with pytest.raises(InputError, match="--layers 5 is invalid: the teacher has the layers 0"):
        resolve_layers([5], 4)


@pytest.fixture
def arguments(
    tiny: TinyWorld, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The command's arguments: dictionary b has every other word of dictionary a."""
    monkeypatch.setenv("DSKD_HOME", str(tmp_path / "home"))
    ratings = tmp_path / "home" / "evaluation"
    ratings.mkdir(parents=True)
    for name in ("simlex999.txt", "wordsim353.tsv"):  # files that exist are not fetched
        (ratings / name).write_text(RATINGS)
    facts = {
        "teacher": model_fingerprint(str(tiny.folder / "teacher")),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }
    tokens = [tokenizer(f" {lemma}")["input_ids"][0] for lemma in LEMMAS]
    known_dictionary(tmp_path / "a", facts, tokens)
    known_dictionary(tmp_path / "b", facts, tokens[::2])
    examples = write_examples(tmp_path / "wordnet")
    return [
        str(tiny.spec_file),
        "--set",
        f"senses.lexicons=[{{kind='wordnet', path='{examples}'}}]",
        "--dictionary",
        f"a={tmp_path / 'a'}",
        "--dictionary",
        f"b={tmp_path / 'b'}",
        "--layers",
        "0,-1",
    ]


def test_the_json_has_every_part(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["senses", "eval", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    context = found["context"]
    rows = [(row["layer"], row["position"]) for row in context["all"]]
    assert rows == [(0, "before"), (0, "on"), (4, "before"), (4, "on")]
    assert context["num_common_pairs"] < context["num_pairs"] < 2 * len(LEMMAS)
    assert len(context["senses"]["a"]) == len(context["senses"]["b"]) == 12
    assert all(0 <= row["auc"] <= 1 for rows in context["senses"].values() for row in rows)
    assert found["separation"]["a"]["num_antonym_pairs"] > 0
    assert found["similarity"]["SimLex-999"]["states"][0]["num_pairs"] == 4
    assert found["polysemy"]["a"]["num_words"] == len(LEMMAS)
    assert found["polysemy"]["a"]["spearman"] is None  # every word has two senses


def test_the_tables_are_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["senses", "eval", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "word in context:" in shown
    assert "How to read this" in shown


def test_one_part_alone(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["senses", "eval", *arguments, "--only", "separation"]) == 0
    assert "word in context:" not in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--dictionary", "nothing"], ["--layers", "x"]])
def test_wrong_arguments_are_explained(
    wrong: list[str], tiny: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["senses", "eval", str(tiny.spec_file), *wrong]) == 2
    assert f"{wrong[0]} {wrong[1]} is invalid" in capsys.readouterr().err
