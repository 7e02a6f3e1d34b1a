"""`dskd senses map`: the senses of some words and of their neighbours on a plane, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.errors import InputError
from dskd_ds.senses.dictionary.contexts import Context
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.forms import forms_of, rows_of, words_with_senses
from dskd_ds.senses.look.nearest import neighbours

MAX_WORDS = 8
"""More colours than this cannot be told apart."""
MAX_SENSES = 6
"""Of each word, the most frequent."""
NEIGHBOURS = 2
"""Of each sense."""
PERPLEXITY = 8.0
"""t-SNE's: about how many points count as near."""


@dataclass(frozen=True)
class Point:
    """A sense on the map."""

    row: int
    label: str
    word: int
    """Number of the word it belongs to, or that it is a neighbour of."""
    beside: int
    """Number of the point that it is a neighbour of; a word's own sense: its own number."""
    share: float | None
    """Of the word's vectors; None: a neighbour."""
    context: Context | None = None


def choose_points(dictionary: SenseDictionary, tokenizer: Any, words: Sequence[str]) -> list[Point]:
    """The senses of the words (as typed, if that form has any), then the neighbours of each, every row once.

    Raises InputError for a word without senses, and for more words than there are colours.
    """
    if len(words) > MAX_WORDS:
        raise InputError(
            f"{len(words)} words: a map holds at most {MAX_WORDS}.\n  name fewer, or export all: dskd senses projector"
        )
    names = words_with_senses(dictionary, tokenizer)
    forms = [forms_of(dictionary, tokenizer, word)[0] for word in dict.fromkeys(words)]
    points: list[Point] = []
    for number, form in enumerate(forms):
        rows = form.rows(dictionary)
        total = max(1, int(dictionary.sense_counts[rows].sum()))
        contexts = dictionary.contexts_of(rows[:MAX_SENSES].tolist())
        for place, row in enumerate(rows[:MAX_SENSES].tolist(), 1):
            share = int(dictionary.sense_counts[row]) / total
            points.append(
                Point(
                    row,
                    f"{form.text} {place}",
                    number,
                    len(points),
                    share,
                    next(iter(contexts[row]), None),
                )
            )
    taken = {point.row for point in points}
    others = rows_of(dictionary, names.keys() - {form.owner for form in forms})
    near = neighbours(dictionary, np.array([point.row for point in points]), others, NEIGHBOURS)
    for number, (point, found) in enumerate(zip(list(points), near, strict=True)):
        for neighbour in found:
            if neighbour.row not in taken:
                taken.add(neighbour.row)
                points.append(
                    Point(neighbour.row, names[neighbour.owner], point.word, number, None)
                )
    return points


def layout(vectors: torch.Tensor) -> NDArray[np.float64]:
    """[N, D] -> [N, 2] by t-SNE (van der Maaten and Hinton, 2008), started from the principal components: the same for the same input."""
    from sklearn.manifold import TSNE

    if len(vectors) < 4:  # too few for t-SNE; any plane holds three points
        centred = vectors - vectors.mean(dim=0)
        axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
        return np.asarray((centred @ axes.T).numpy(), np.float64)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    plane = TSNE(
        perplexity=perplexity, init="pca", method="exact", random_state=0, max_iter=1500
    ).fit_transform(vectors.double().numpy())
    return np.asarray(plane, np.float64)
