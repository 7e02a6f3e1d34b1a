"""`dskd senses map`: choose the senses of some words and of their neighbours, and lay them out."""

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
from dskd_ds.senses.look.forms import Form, forms_of, rows_of, words_with_senses
from dskd_ds.senses.look.nearest import neighbours

MAX_WORDS = 8
"""More colours than this cannot be told apart."""
MAX_SENSES = 6
"""Senses shown per word, the most frequent ones."""
MAX_NEIGHBOURS = 2
"""Neighbours shown per sense."""
PERPLEXITY = 8.0
"""t-SNE's perplexity: about how many points count as near."""


@dataclass(frozen=True)
class Point:
    """A sense on the map."""

    row: int
    """Row of the dictionary."""
    label: str
    word_index: int
    """Index of the word that the sense belongs to or is a neighbour of; it gives the colour."""
    neighbour_of: int
    """Index of the point that this one is a neighbour of; for a word's own sense, its own index."""
    share: float | None
    """Share (0 to 1) of the word's vectors; None for a neighbour."""
    context: Context | None = None
    """The text where the state nearest to the sense was found."""


def choose_points(dictionary: SenseDictionary, tokenizer: Any, words: Sequence[str]) -> list[Point]:
    """Return the senses of the words, then the neighbours of each sense; every row at most once.

    A word is shown as typed if that form has senses. Raises InputError for a word without senses
    and for more words than there are colours.
    """
    if len(words) > MAX_WORDS:
        raise InputError(
            f"{len(words)} words: a map holds at most {MAX_WORDS}.\n"
            "  name fewer words, or export all senses: dskd senses projector"
        )
    forms = [forms_of(dictionary, tokenizer, word)[0] for word in dict.fromkeys(words)]
    own = _own_points(dictionary, forms)
    names = words_with_senses(dictionary, tokenizer)
    return own + _neighbour_points(dictionary, forms, own=own, names=names)


def _own_points(dictionary: SenseDictionary, forms: Sequence[Form]) -> list[Point]:
    """Return the senses of the forms, labelled with the form and the number of the sense."""
    points: list[Point] = []
    for word_index, form in enumerate(forms):
        rows = form.rows(dictionary)
        num_vectors = max(1, int(dictionary.sense_counts[rows].sum()))
        shown = rows[:MAX_SENSES].tolist()
        contexts = dictionary.contexts_of(shown)
        for sense_number, row in enumerate(shown, 1):
            point = Point(
                row=row,
                label=f"{form.text} {sense_number}",
                word_index=word_index,
                neighbour_of=len(points),
                share=int(dictionary.sense_counts[row]) / num_vectors,
                context=next(iter(contexts[row]), None),
            )
            points.append(point)
    return points


def _neighbour_points(
    dictionary: SenseDictionary,
    forms: Sequence[Form],
    own: Sequence[Point],
    names: dict[int, str],
) -> list[Point]:
    """Return the neighbours of the forms' senses that are senses of other whole words.

    own: the senses of the forms. names: token -> word, of the tokens to choose from.
    """
    points: list[Point] = []
    # A sense that is near several others is shown once, beside the first of them.
    taken = {point.row for point in own}
    rows = np.array([point.row for point in own])
    among = rows_of(dictionary, names.keys() - {form.owner for form in forms})
    near = neighbours(dictionary, rows, among=among, max_neighbours=MAX_NEIGHBOURS)
    for index, (point, found) in enumerate(zip(own, near, strict=True)):
        for neighbour in found:
            if neighbour.row in taken:
                continue
            taken.add(neighbour.row)
            points.append(
                Point(
                    row=neighbour.row,
                    label=names[neighbour.owner],
                    word_index=point.word_index,
                    neighbour_of=index,
                    share=None,
                )
            )
    return points


def layout(vectors: torch.Tensor) -> NDArray[np.float64]:
    """Project vectors [N, D] onto a plane [N, 2] by t-SNE (van der Maaten and Hinton, 2008).

    t-SNE starts from the principal components, so equal input gives equal output.
    """
    from sklearn.manifold import TSNE

    if len(vectors) < 4:  # too few for t-SNE; three points always lie in a plane
        centred = vectors - vectors.mean(dim=0)
        axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
        return np.asarray((centred @ axes.T).numpy(), np.float64)
    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3),
        init="pca",
        method="exact",
        random_state=0,
        max_iter=1500,
    )
    return np.asarray(tsne.fit_transform(vectors.double().numpy()), np.float64)
