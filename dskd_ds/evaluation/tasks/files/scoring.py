"""Scores of one question, for lm-evaluation-harness. It imports nothing of this package, so that
`lm_eval --include_path` can use a copy of it in a process of its own.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

REFUSALS = ("no answer", "unanswerable")
"""What answers a question that its context does not answer."""


def score_labels(doc: dict[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Score the log-probabilities of all labels.

    results: (log-probability, whether it is the greedy answer) per label.
    accuracy: 1 if the right label is the likeliest; 1/n if n labels are equally likely, as
    bfloat16 often has it, so that a guess scores what it would by chance. margin: its
    log-probability minus the highest one of the others, in nats. brier: sum of squared differences
    of the labels' probabilities, which add up to 1, to 1 for the right label and 0 for the others.
    """
    logprobs = [float(result[0]) for result in results]
    gold = int(doc["gold"])
    highest = max(logprobs)
    weights = [math.exp(value - highest) for value in logprobs]
    shares = [weight / sum(weights) for weight in weights]
    best_other = max(value for index, value in enumerate(logprobs) if index != gold)
    brier = sum((share - (index == gold)) ** 2 for index, share in enumerate(shares))
    return {
        "accuracy": (logprobs[gold] == highest) / logprobs.count(highest),
        "margin": logprobs[gold] - best_other,
        "brier": brier,
    }


def score_exact(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return 1 if the answer, without blanks around it, is the right label; else 0."""
    return {"exact": float(results[0].strip() == doc["answer"])}


def score_f1(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return the F1 over words with the nearest right answer; of a refusal, 1 or 0."""
    return {"f1": answer_f1(results[0], doc["answers"])}


def answer_f1(answer: str, golds: Sequence[str]) -> float:
    """Return the best F1 over words. golds: every right answer; none: it must be a refusal."""
    if not golds:
        return float(answer.strip().rstrip(".").lower() in REFUSALS)
    return max(_words_f1(answer, gold) for gold in golds)


def _words_f1(answer: str, gold: str) -> float:
    found, wanted = _words(answer), _words(gold)
    if not found or not wanted:
        return float(found == wanted)
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted))


def _words(text: str) -> list[str]:
    """Return lower-case words without punctuation and articles, as SQuAD's own script does."""
    plain = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()
