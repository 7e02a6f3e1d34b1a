"""Draws the vectors of words and of their synonyms as a PNG, with a colour per word."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.files.output import writing_output
from dskd_ds.senses.look.map import layout
from dskd_ds.senses.look.map_picture import COLOURS
from dskd_ds.senses.look.vectors import WordVectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = ("o", "^", "s", "D")
"""Of the word itself, and of its synonyms."""
CAPTION = (
    "t-SNE: points that lie close together are similar; larger distances mean little. A point is a"
    " state of the teacher that predicts\n"
    "the word (of a phrase: one of its senses). A colour is a word with its synonyms; a label"
    " stands at the middle of the word's points.\n"
    "Synonyms that mean the same to the teacher lie together."
)
WIDTH_INCHES, HEIGHT_INCHES, CAPTION_SHARE = 11.0, 8.2, 0.09


def draw_vectors(words: Sequence[WordVectors], source: str, output: Path) -> None:
    """Write the map. words: as chosen. source: shown at the top right.

    Raises InputError if it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [word for word in words if len(word.vectors)]
    planes = _planes(shown)
    figure = pyplot.figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=130)
    axes = figure.add_axes((0.02, CAPTION_SHARE, 0.96, 0.95 - CAPTION_SHARE))
    marks = _marks(shown)
    for word, plane, mark in zip(shown, planes, marks, strict=True):
        colour = COLOURS[word.group]
        axes.scatter(*plane.T, s=22, marker=mark, color=colour, alpha=0.6, linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.margins(0.07)
    asked = [word.text for word in words if not word.is_synonym]
    axes.set_title(f"states of {', '.join(asked)} and their synonyms", fontsize=13, loc="left")
    axes.set_title(source, fontsize=8, loc="right", color="0.4")
    _draw_labels(axes, shown, planes)
    figure.text(0.02, 0.015, CAPTION, fontsize=8, color="0.3")
    with warnings.catch_warnings(), writing_output(output):
        # A script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, format="png")
    pyplot.close(figure)


def _planes(words: Sequence[WordVectors]) -> list[NDArray[np.float64]]:
    """Return the coordinates [N, 2] of each word's vectors, laid out together."""
    together = layout(torch.cat([word.vectors for word in words]))
    ends = np.cumsum([len(word.vectors) for word in words])
    return np.split(together, ends[:-1])


def _marks(words: Sequence[WordVectors]) -> list[str]:
    """Return the mark of each word: a circle for those that were asked for."""
    marks: list[str] = []
    number = 0
    for word in words:
        number = number + 1 if word.is_synonym else 0
        marks.append(MARKS[number % len(MARKS)])
    return marks


def _draw_labels(
    axes: Axes, words: Sequence[WordVectors], planes: Sequence[NDArray[np.float64]]
) -> None:
    """Write each word at the middle of its points, where it covers no other label."""
    import textalloc

    middles = np.array([np.median(plane, axis=0) for plane in planes])
    textalloc.allocate(
        axes,
        middles[:, 0],
        middles[:, 1],
        [word.text for word in words],
        textsize=[9 if word.is_synonym else 12 for word in words],
        textcolor=[COLOURS[word.group] for word in words],
        linecolor="0.6",
        linewidth=0.6,
        min_distance=0.006,
        max_distance=0.15,
        margin=0.004,
        avoid_label_lines_overlap=True,
    )
