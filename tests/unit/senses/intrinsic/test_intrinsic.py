"""Intrinsic evaluation: ranks against slow versions, the pairs' promises, states against plain forward passes, scores on known senses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.commands import cli
from dskd_ds.errors import InputError
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.models.frozen import TeacherModel, load_teacher
from dskd_ds.models.resolve import load_tokenizer, model_fingerprint, tokenizer_fingerprint
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary, write_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.intrinsic import similarity
from dskd_ds.senses.intrinsic.assignment import candidate_rows, pair_scores, soft_scores
from dskd_ds.senses.intrinsic.evaluate import resolve_layers
from dskd_ds.senses.intrinsic.examples import Occurrence, base_forms, build_pairs, read_occurrences
from dskd_ds.senses.intrinsic.ranks import auc, auc_error, spearman
from dskd_ds.senses.intrinsic.separation import pair_distances, separation
from dskd_ds.senses.intrinsic.states import word_states
from dskd_ds.spec import load_spec
from tests.conftest import WORDS, TinyWorld
from tests.of_spec import teacher_of

LEMMAS = [word for word in WORDS if len(word) > 3]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([float(s) for s, _ in rows]), np.array([label for _, label in rows])
    pairs = [
        (p > n) + 0.5 * (p == n) for p, n in itertools.product(scores[labels], scores[~labels])
    ]
    assert auc(scores, labels) == pytest.approx(
        np.mean(pairs) if pairs else float("nan"), nan_ok=True
    )


def test_auc_error_is_that_of_many_samples() -> None:
    generator = np.random.default_rng(0)

    def sample() -> tuple[Any, Any, Any]:
        labels = np.arange(200) % 2 == 0
        return labels + generator.normal(size=200), labels, np.arange(200) // 2

    areas = [auc(*sample()[:2]) for _ in range(300)]
    errors = [auc_error(*sample()) for _ in range(5)]
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.25)


def test_spearman() -> None:
    values = np.array([3.0, 1.0, 2.0, 2.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1.0)
    assert spearman(values, -values) == pytest.approx(-1.0)
    # Ranks (4, 1, 2.5, 2.5) and (1, 2, 3, 4): sum of products -1.5 about their means, sums of squares 4.5 and 5.
    assert spearman(values, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(
        -1.5 / np.sqrt(4.5 * 5)
    )
    assert np.isnan(spearman(values, np.ones(4)))


def write_examples(folder: Path) -> Path:
    """WordNet files in which every word of LEMMAS has two synsets with three examples each."""
    folder.mkdir()
    for part, letter in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        lines = ["  1 the licence"]
        for number, lemma in enumerate(LEMMAS if part == "noun" else []):
            for sense in range(2):
                fillers = [WORDS[(7 * number + 3 * sense + i) % len(WORDS)] for i in range(3)]
                quoted = "; ".join(f'"{filler} and {lemma} in"' for filler in fillers)
                lines.append(
                    f"{number * 10 + sense:08d} {3 + sense:02d} {letter} 02 {lemma} 0 hot_{lemma} 0 000 | a meaning; {quoted}"
                )
        (folder / f"data.{part}").write_text("\n".join(lines) + "\n")
    (folder / "noun.exc").write_text("cities city\n")
    return folder


def test_occurrences_are_found_inflected_and_have_words_before_them(tmp_path: Path) -> None:
    folder = write_examples(tmp_path / "wordnet")
    with (folder / "data.noun").open("a") as file:
        file.write(
            '00009999 00 n 01 city 0 000 | a town; "two cities were built"; "city of light"; "a City-like town"\n'
        )
    found = read_occurrences(folder)
    cities = [(o.text, o.text[o.start : o.end]) for o in found if o.synset == "00009999"]
    assert cities == [
        ("two cities were built", "cities")
    ]  # one begins its text; one is another word
    assert {o.lemma for o in found} == set(LEMMAS)
    assert base_forms("boxes", "noun", {}) == {"boxes", "boxe", "box"}
    with pytest.raises(InputError, match=r"data\.noun: it cannot be read"):
        read_occurrences(tmp_path)


occurrences = st.builds(
    lambda lemma, place, text: Occurrence(
        lemma, "noun", *place, f"the {text} {lemma}", 5 + len(text), 9 + len(text)
    ),
    st.sampled_from(["bank", "bark", "pear", "seal", "crow"]),
    st.sampled_from([("1", "05"), ("2", "05"), ("3", "17")]),
    st.text("abc", min_size=1, max_size=3),
)


@given(items=st.lists(occurrences, max_size=60), max_pairs=st.integers(0, 12), seed=st.randoms())
def test_pairs_are_balanced_repeatable_and_split_by_lemma(
    items: list[Occurrence], max_pairs: int, seed: Any
) -> None:
    pairs = build_pairs(items, max_pairs)
    shuffled = list(items)
    seed.shuffle(shuffled)
    assert build_pairs(shuffled, max_pairs) == pairs
    assert len(pairs) <= max_pairs
    for lemma in {pair.lemma for pair in pairs}:
        own = [pair for pair in pairs if pair.lemma == lemma]
        assert sorted(pair.same for pair in own) == [False, True]
        assert len({pair.for_tuning for pair in own}) == 1  # a lemma is in one split only
    for pair in pairs:
        assert pair.left.lemma == pair.right.lemma
        assert pair.left.text != pair.right.text
        assert pair.same == (pair.left.field == pair.right.field)
    assert set(build_pairs(items, max_pairs)) <= set(build_pairs(items, 1000))


def test_both_splits_are_used(tmp_path: Path) -> None:
    pairs = build_pairs(read_occurrences(write_examples(tmp_path / "wordnet")), 1000)
    share = sum(pair.for_tuning for pair in pairs) / len(pairs)
    assert 0.1 < share < 0.6


@pytest.fixture(scope="module")
def teacher(tiny: TinyWorld) -> TeacherModel:
    return load_teacher(teacher_of(load_spec(tiny.spec_file)), torch.device("cpu"))


@pytest.fixture(scope="module")
def tokenizer(tiny: TinyWorld) -> Any:
    return load_tokenizer(str(tiny.folder / "teacher"))


def test_states_are_those_of_whole_texts_read_alone(teacher: TeacherModel, tokenizer: Any) -> None:
    texts = [
        "the bank of the river was old",
        "money in the bank",
        "happy banks",
        "in the cold city was warm water and the river",
    ]
    words = [
        (t, t.index(w), t.index(w) + len(w))
        for t, w in zip(texts, ("river", "bank", "banks", "river"), strict=True)
    ]
    found = word_states(teacher, tokenizer, words, (0, 2, 4), "test")
    for row, (text, start, end) in enumerate(words):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        before, through = (len(tokenizer(text[:stop])["input_ids"]) for stop in (start - 1, end))
        for layer, states in found.items():
            whole, _ = teacher.states_of_layer(ids, torch.arange(ids.shape[1])[None], layer)
            torch.testing.assert_close(
                states.before[row], whole[0, before - 1], atol=1e-5, rtol=1e-4
            )
            torch.testing.assert_close(states.on[row], whole[0, through - 1], atol=1e-5, rtol=1e-4)


def known_dictionary(
    folder: Path, facts: dict[str, object], tokens: list[int], size: int = 32
) -> SenseDictionary:
    """Each token has a sense at +10 and one at -10 of its own dimension; neighbours in the list are synonyms."""
    tokens = sorted(tokens)
    centroids = torch.zeros(2 * len(tokens), size)
    for number in range(len(tokens)):
        centroids[2 * number, number % size], centroids[2 * number + 1, number % size] = 10.0, -10.0
    relations = TokenRelations(
        {t: [tokens[i ^ 1]] for i, t in enumerate(tokens) if i ^ 1 < len(tokens)},
        {t: [tokens[-1 - i]] for i, t in enumerate(tokens)},
        [],
    )
    write_dictionary(
        folder,
        Senses(np.repeat(tokens, 2), centroids, np.full(2 * len(tokens), 3)),
        relations,
        {"vocab_size": 500, "layer": -1, **facts},
        4,
    )
    return open_dictionary(folder)


def test_occurrences_go_to_their_nearest_sense(tmp_path: Path) -> None:
    dictionary = known_dictionary(tmp_path / "senses", {}, [3, 8, 20])
    assert candidate_rows(dictionary, 8, "own").tolist() == [2, 3]
    assert candidate_rows(dictionary, 8, "lexical").tolist() == [2, 3, 0, 1]
    near = torch.eye(32)[:3] * 8
    left, right = torch.cat([near, near]), torch.cat([near + 0.1, -near])
    labels, tuning = np.array([True] * 3 + [False] * 3), np.array([True, False, True] * 2)
    scores = pair_scores(dictionary, [3, 8, 20] * 2, left, right, labels, tuning, "own")
    assert scores["same"].tolist() == [1, 1, 1, 0, 0, 0]
    np.testing.assert_allclose(scores["centroid"], [1, 1, 1, -1, -1, -1], atol=1e-6)
    assert auc(scores["soft"], labels) == 1.0


def test_soft_scores_by_hand() -> None:
    distances = [
        torch.tensor([[1.0, 3.0], [2.0, 1.0]])
    ]  # the nearest are 1 and 1, so the unit is 1
    shares = [np.exp([-1 / 0.5, -3 / 0.5]), np.exp([-2 / 0.5, -1 / 0.5])]
    a, b = (s / s.sum() for s in shares)
    assert soft_scores(distances, 0.5)[0] == pytest.approx(
        a @ b / np.sqrt((a @ a) * (b @ b)), rel=1e-5
    )


def test_separation_measures_nearest_senses(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 8, generator=generator) * 5
    place = centres.repeat_interleave(2, dim=0) + 0.1 * torch.randn(
        40, 8, generator=generator
    )  # tokens 2i and 2i + 1 lie together
    relations = TokenRelations(
        {t: [t ^ 1] for t in range(40)}, {t: [(t + 7) % 40] for t in range(0, 40, 4)}, []
    )
    senses = Senses(np.arange(40), place, np.ones(40, np.int64))
    write_dictionary(tmp_path / "senses", senses, relations, {"vocab_size": 40, "layer": -1}, 4)
    dictionary = open_dictionary(tmp_path / "senses")
    found = separation(dictionary)
    assert (found.num_synonym_pairs, found.num_antonym_pairs) == (20, 10)
    assert found.synonyms_below_antonyms == 1.0
    assert found.synonyms_below_strangers > 0.9
    rows = dictionary.senses.float()
    expected = sorted(float((rows[2 * i] - rows[2 * i + 1]).square().mean()) for i in range(20))
    np.testing.assert_allclose(
        sorted(pair_distances(dictionary)[0]), expected, rtol=1e-3, atol=1e-5
    )


def test_ratings_and_their_correlation(tmp_path: Path) -> None:
    path = tmp_path / "ratings.txt"
    path.write_text(
        "# a comment\n# Word 1\tWord 2\tHuman\nbank\tmoney\t9.0\nbank\triver\t5.5\nbank\tcold\t0.5\nbank\tqqq\t3\n"
    )
    pairs = similarity.read_ratings(path)
    assert pairs[1] == similarity.RatedPair("bank", "river", 5.5)
    angles = {"bank": 0.0, "money": 0.3, "river": 1.0, "cold": 3.0, "qqq": 2.0}
    vectors = {word: torch.tensor([np.cos(a), np.sin(a)]) for word, a in angles.items()}
    assert similarity.by_states(pairs, vectors).num_pairs == 4
    path.write_text("bank\tmoney\n")
    with pytest.raises(InputError, match="line 1: 'bank\\\\tmoney' is not word, word, rating"):
        similarity.read_ratings(path)


def test_layers_count_from_either_end() -> None:
    assert resolve_layers([0, -1, 2, 4], 4) == [0, 2, 4]
    with pytest.raises(InputError, match="--layers 5: the teacher has the layers 0"):
        resolve_layers([5], 4)


def test_the_command(
    tiny: TinyWorld,
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DSKD_HOME", str(tmp_path / "home"))
    ratings = tmp_path / "home" / "evaluation"
    ratings.mkdir(parents=True)
    for name in (
        "simlex999.txt",
        "wordsim353.tsv",
    ):  # as fetched; what is there is not fetched again
        (ratings / name).write_text(
            "bank\tmoney\t9\nbank\triver\t6\nbig\tlarge\t8\ncity\tcold\t1\n"
        )
    facts = {
        "teacher": model_fingerprint(str(tiny.folder / "teacher")),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }
    tokens = [tokenizer(f" {lemma}")["input_ids"][0] for lemma in LEMMAS]
    for name in ("a", "b"):
        known_dictionary(tmp_path / name, facts, tokens if name == "a" else tokens[::2])
    examples = write_examples(tmp_path / "wordnet")
    words = [
        "senses",
        "eval",
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
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    context = found["context"]
    assert [(row["layer"], row["position"]) for row in context["all"]] == [
        (0, "before"),
        (0, "on"),
        (4, "before"),
        (4, "on"),
    ]
    assert context["num_common_pairs"] < context["num_pairs"] < 2 * len(LEMMAS)
    assert len(context["senses"]["a"]) == len(context["senses"]["b"]) == 12
    assert all(0 <= row["auc"] <= 1 for rows in context["senses"].values() for row in rows)
    assert found["separation"]["a"]["num_antonym_pairs"] > 0
    assert found["similarity"]["SimLex-999"]["states"][0]["num_pairs"] == 4
    assert cli.main(words) == 0
    assert "How to read this" in capsys.readouterr().out
    assert cli.main([*words, "--only", "separation"]) == 0
    assert "word in context:" not in capsys.readouterr().out
    assert cli.main([*words[:3], "--dictionary", "nothing"]) == 2
    assert cli.main([*words[:3], "--layers", "x"]) == 2
