"""F1, exact labels, label probabilities and the macro mean, against slow versions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dskd_ds.evaluation.paired import mean_and_error
from dskd_ds.evaluation.tasks.files.scoring import answer_f1, score_exact, score_labels
from dskd_ds.evaluation.tasks.harness import clusters_of, macro_values

# (answer, right answers, F1). The numbers were worked out by hand.
CASES: list[tuple[str, list[str], float]] = [
    ("Paris", ["Paris"], 1.0),
    ("paris", ["Paris"], 1.0),
    ("Paris.", ["Paris"], 1.0),
    ("the Paris", ["Paris"], 1.0),
    ("The city of Paris", ["Paris"], 2 * 1 / (3 + 1)),
    ("Paris", ["the city of Paris"], 2 * 1 / (1 + 3)),
    ("London", ["Paris"], 0.0),
    ("", ["Paris"], 0.0),
    ("a", ["Paris"], 0.0),
    ("the", ["an"], 1.0),
    ("10", ["10"], 1.0),
    ("10 %", ["10%"], 1.0),
    ("1,000", ["1000"], 1.0),
    ("ten", ["10"], 0.0),
    ("in 1066", ["1066"], 2 * 1 / (2 + 1)),
    ("1066 in 1066", ["1066"], 2 * 1 / (3 + 1)),
    ("1066 1066", ["1066 1066"], 1.0),
    ("1066", ["1066 1066"], 2 * 1 / (1 + 2)),
    ("Duke William", ["William", "Duke William of Normandy"], 2 * 1 / (2 + 1)),
    ("Duke William of Normandy", ["William", "Duke William of Normandy"], 1.0),
    ("William", ["Harold", "William"], 1.0),
    ("Harold Godwinson", ["Harold", "William"], 2 / 3),
    ("big red dog", ["red dog"], 2 * 2 / 5),
    ("red big dog", ["dog red"], 2 * 2 / 5),
    ("an apple", ["apple"], 1.0),
    ("apple tree", ["apple"], 2 / 3),
    ("theatre", ["the atre"], 0.0),
    ("a-b", ["ab"], 1.0),
    ("U.S.", ["US"], 1.0),
    ("it's", ["its"], 1.0),
    ("New York City", ["New York"], 4 / 5),
    ("New  York", ["New York"], 1.0),
    ("\nNew York\n", ["New York"], 1.0),
    ("New York, USA", ["USA"], 2 / 4),
    ("yes", ["no"], 0.0),
    ("no answer", [], 1.0),
    ("No answer", [], 1.0),
    (" No answer ", [], 1.0),
    ("No answer.", [], 1.0),
    ("NO ANSWER", [], 1.0),
    ("unanswerable", [], 1.0),
    ("Unanswerable", [], 1.0),
    ("no", [], 0.0),
    ("There is no answer", [], 0.0),
    ("", [], 0.0),
    ("Paris", [], 0.0),
    ("no answer here", [], 0.0),
    ("No answer", ["Paris"], 0.0),
    ("no answer", ["the answer"], 2 * 1 / (2 + 1)),
    ("unanswerable", ["Paris", "London"], 0.0),
]


def slow_f1(answer: str, golds: list[str]) -> float:
    """Token by token, as the description of the score says."""
    if not golds:
        shown = answer.strip().lower()
        shown = shown[:-1] if shown.endswith(".") else shown
        return 1.0 if shown in {"no answer", "unanswerable"} else 0.0
    best = 0.0
    for gold in golds:
        left, right = slow_words(answer), slow_words(gold)
        if not left or not right:
            best = max(best, 1.0 if left == right else 0.0)
            continue
        remaining = list(right)
        shared = 0
        for word in left:
            if word in remaining:
                remaining.remove(word)
                shared += 1
        if shared:
            precision, recall = shared / len(left), shared / len(right)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def slow_words(text: str) -> list[str]:
    letters = ""
    for char in text.lower():
        if char.isalnum() or char.isspace():
            letters += char
    return [word for word in letters.split() if word not in {"a", "an", "the"}]


def test_there_are_50_cases() -> None:
    assert len(CASES) == 50


@pytest.mark.parametrize(("answer", "golds", "expected"), CASES)
def test_f1(answer: str, golds: list[str], expected: float) -> None:
    assert answer_f1(answer, golds) == pytest.approx(expected)
    assert slow_f1(answer, golds) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("B", 1.0), (" B\n", 1.0), ("b", 0.0), ("B.", 0.0), ("B. river", 0.0), ("", 0.0), ("A", 0.0)],
)
def test_the_answer_must_equal_the_label(answer: str, expected: float) -> None:
    assert score_exact({"answer": "B"}, [answer]) == {"exact": expected}


def test_label_probabilities() -> None:
    shares = [0.2, 0.5, 0.3]
    results = [(math.log(share) - 7.0, False) for share in shares]  # not normalised
    right = score_labels({"gold": 1}, results)
    assert right["accuracy"] == 1.0
    assert right["margin"] == pytest.approx(math.log(0.5 / 0.3))
    assert right["brier"] == pytest.approx(0.2**2 + 0.5**2 + 0.3**2)
    wrong = score_labels({"gold": 0}, results)
    assert wrong["accuracy"] == 0.0
    assert wrong["margin"] == pytest.approx(math.log(0.2 / 0.5))


def test_a_tie_scores_what_a_guess_among_the_likeliest_would() -> None:
    results = [(-1.0, True), (-2.0, False), (-1.0, True)]
    scores = [score_labels({"gold": gold}, results)["accuracy"] for gold in range(3)]
    assert scores == [0.5, 0.0, 0.5]  # they add up to 1, so that chance is chance


def test_the_macro_mean_weighs_topics_equally() -> None:
    topics = ["law"] * 3 + ["art"] + ["law"]
    scores = np.array([1.0, 0.0, 1.0, 0.0, 1.0])
    values = macro_values(scores, topics)
    assert values.mean() == pytest.approx((3 / 4 + 0 / 1) / 2)


def test_topics_of_different_size_are_no_noise() -> None:
    topics = ["law"] * 90 + ["art"] * 10
    same = macro_values(np.ones(100), topics)
    assert mean_and_error(same, np.arange(100)) == (1.0, 0.0)
    random = np.random.default_rng(0)
    scores = random.random(100)
    mean, error = mean_and_error(macro_values(scores, topics), np.arange(100))
    law, art = scores[:90], scores[90:]
    assert mean == pytest.approx((law.mean() + art.mean()) / 2)
    slow = math.hypot(law.std() / 90**0.5, art.std() / 10**0.5) / 2
    assert error == pytest.approx(slow, rel=0.01)


def test_questions_about_one_context_are_one_cluster() -> None:
    contexts = ["Normandy", "Oxygen", "", "Normandy", ""]
    documents = [{"id": str(i), "context": context} for i, context in enumerate(contexts)]
    assert clusters_of(documents).tolist() == [0, 1, 2, 0, 3]
