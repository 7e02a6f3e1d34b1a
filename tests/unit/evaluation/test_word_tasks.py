"""Word in context and word similarity as tasks whose items have values that add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dskd_ds.commands import cli
from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import items_path, read_items
from dskd_ds.evaluation.paired import mean_and_error, paired_difference
from dskd_ds.evaluation.word_tasks import (
    DEPTHS,
    WordItems,
    auc_values,
    correlation_values,
    name_at,
    score_words,
)
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.intrinsic.examples import Occurrence, Pair
from dskd_ds.senses.intrinsic.ranks import auc, spearman
from dskd_ds.senses.intrinsic.similarity import RatedPair
from tests.conftest import TinyWorld


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_mean_is_the_auc_and_its_error_that_of_a_bootstrap(share: float) -> None:
    random = np.random.default_rng(0)
    labels = random.random(400) < share
    scores = np.round(random.standard_normal(400) + 0.8 * labels, 1)  # with ties
    mean, error = mean_and_error(auc_values(scores, labels), np.arange(400))
    assert mean == pytest.approx(auc(scores, labels))
    areas = []
    for _ in range(1500):
        drawn = random.integers(0, 400, 400)
        areas.append(auc(scores[drawn], labels[drawn]))
    assert error == pytest.approx(np.std(areas), rel=0.1)


def test_the_mean_is_the_rank_correlation_and_its_error_that_of_a_bootstrap() -> None:
    random = np.random.default_rng(1)
    left = random.standard_normal(500)
    right = np.round(0.5 * left + random.standard_normal(500), 1)
    mean, error = mean_and_error(correlation_values(left, right), np.arange(500))
    assert mean == pytest.approx(spearman(left, right))
    found = []
    for _ in range(1500):
        drawn = random.integers(0, 500, 500)
        found.append(spearman(left[drawn], right[drawn]))
    assert error == pytest.approx(np.std(found), rel=0.15)


def test_a_better_model_is_told_from_a_worse_one_on_the_same_pairs() -> None:
    random = np.random.default_rng(2)
    labels = np.arange(600) % 2 == 0
    difficulty = random.standard_normal(600)
    worse, better = (
        auc_values(difficulty + strength * labels + 0.3 * random.standard_normal(600), labels)
        for strength in (0.5, 0.9)
    )
    found = paired_difference(worse[None], better[None], np.arange(600))
    assert found.low > 0
    same = paired_difference(worse[None], worse[None], np.arange(600))
    assert same.low <= 0 <= same.high


def tiny_items() -> WordItems:
    def occurrence(text: str, word: str, synset: str) -> Occurrence:
        start = text.index(word)
        return Occurrence(
            lemma=word,
            pos="noun",
            synset=synset,
            meaning_field="01",
            text=text,
            start=start,
            end=start + len(word),
        )

    def pair(word: str, first: str, second: str, same: bool) -> Pair:
        return Pair(occurrence(first, word, "a"), occurrence(second, word, "a" if same else "b"))

    pairs = [
        pair("bank", "the bank of the river", "the cold bank of the river", same=True),
        pair("bank", "the bank of the river", "the bank with money", same=False),
        pair("light", "the light of the house", "the light of the city", same=True),
        pair("light", "the light of the house", "the house is light", same=False),
    ]
    ratings = [
        RatedPair("happy", "glad", 9.0),
        RatedPair("big", "large", 9.5),
        RatedPair("hot", "cold", 1.0),
        RatedPair("river", "money", 0.5),
        RatedPair("city", "town", 8.0),
    ]
    return WordItems(pairs, ratings)


def test_models_of_other_depths_are_scored_on_the_same_items(tiny: TinyWorld) -> None:
    teacher = NamedModel(str(tiny.folder / "teacher"), dtype="float32")
    items = tiny_items()
    first = {scores.task: scores for scores in score_words(teacher, "a", teacher, items)}
    assert list(first) == [name_at(task, depth) for task in ("wic", "simlex") for depth in DEPTHS]
    again = {scores.task: scores for scores in score_words(teacher, "b", teacher, items)}
    for task, scores in first.items():
        (key,) = scores.values
        assert key == ("auc" if task.startswith("wic") else "spearman")
        assert again[task].digest == scores.digest
        assert np.array_equal(again[task].values[key], scores.values[key])
    assert first["wic_0"].digest == first["wic_100"].digest != first["simlex_0"].digest
    # The embedding of a word is the same in every text: all pairs have the cosine 1.
    assert first["wic_0"].values["auc"].mean() == pytest.approx(0.5)
    assert list(first["wic_50"].clusters) == [0, 0, 1, 1]


def test_teacher_and_student_are_in_one_table(
    tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ratings are a file in $DSKD_HOME, so that nothing is fetched."""
    path = tiny.folder / "home" / "evaluation" / "simlex999.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = tiny_items().ratings
    path.write_text("".join(f"{pair.left}\t{pair.right}\t{pair.rating}\n" for pair in pairs))
    run_dir = tmp_path / "run"
    argv = ["eval", str(tiny.spec_file), "--set", f"run_dir={run_dir}", "--tasks", "simlex"]
    assert cli.main([*argv, "--model", "teacher", "--model", "before"]) == 0
    printed = capsys.readouterr().out
    assert "simlex_50 (5 pairs)" in printed
    teacher, student = (
        read_items(items_path(run_dir, "simlex_100", model)) for model in ("teacher", "before")
    )
    assert teacher.digest == student.digest
    assert not np.array_equal(teacher.values["spearman"], student.values["spearman"])
    argv = ["compare", f"t={run_dir}:teacher", f"s={run_dir}:before", "--output", str(tmp_path)]
    assert cli.main(argv) == 0
    assert "rank correlation with ratings" in capsys.readouterr().out


def test_sentences_need_a_wordnet(tiny: TinyWorld) -> None:
    teacher = NamedModel(str(tiny.folder / "teacher"))
    with pytest.raises(InputError, match="come from the WordNet of a spec"):
        WordItems.read(["wic"], None, teacher, None)
    assert WordItems.read([], None, teacher, None) == WordItems()
