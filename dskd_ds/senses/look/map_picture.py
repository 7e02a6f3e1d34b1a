"""Points on a plane -> a PNG with labels that do not cover one another, and a list of what each sense is about."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.map import Point, choose_points, layout
from dskd_ds.senses.look.show import snippet

COLOURS = ("#1f5fa8", "#c8501e", "#2a8a4a", "#8a3fa0", "#b8860b", "#c2185b", "#00838f", "#5d4037")
"""Dark enough to be read as text on white."""
CAPTION = (
    "t-SNE: what lies close together is alike, larger distances mean little. A circle is a sense of a word, its area the share of the\n"
    "word's vectors; small dots, joined to it by lines, are the senses of other words nearest to it. The list has the text where the\n"
    "state nearest to each sense was found: »what the text went on with«."
)
WIDTH_INCHES, MAP_INCHES, LINE_INCHES = 11.0, 7.0, 0.19
CONTEXT_CHARACTERS = 62
"""Of the text on each side of a word in the list below the map."""


def draw_map(
    dictionary: SenseDictionary, tokenizer: Any, words: Sequence[str], output: Path
) -> list[Point]:
    """Choose, lay out, draw and write the PNG; returns the points on it. Raises InputError."""
    points = choose_points(dictionary, tokenizer, words)
    plane = layout(dictionary.senses[torch.tensor([point.row for point in points])].float())
    output.parent.mkdir(parents=True, exist_ok=True)
    write_picture(points, plane, f"{dictionary.folder}, layer {dictionary.layer}", output)
    return points


def write_picture(
    points: Sequence[Point], plane: NDArray[np.float64], source: str, output: Path
) -> None:
    """points [N] and where they lie [N, 2]."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    senses = [point for point in points if point.share is not None]
    list_inches = LINE_INCHES * len(senses) + 0.8
    figure = pyplot.figure(figsize=(WIDTH_INCHES, MAP_INCHES + list_inches), dpi=130)
    bottom = list_inches / (MAP_INCHES + list_inches)
    axes = figure.add_axes((0.02, bottom, 0.96, 0.96 - bottom))
    drawn = _draw_points(axes, points, plane)
    axes.set(xticks=[], yticks=[])
    words = list(dict.fromkeys(point.label.rpartition(" ")[0] for point in senses))
    axes.set_title(f"senses of {', '.join(words)}", fontsize=13, loc="left")
    axes.set_title(source, fontsize=8, loc="right", color="0.4")
    _draw_labels(axes, points, plane, drawn)
    _draw_list(figure, senses, bottom, MAP_INCHES + list_inches)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # a script that the font lacks is drawn as boxes
        figure.savefig(output, format="png")
    pyplot.close(figure)


def _draw_points(axes: Any, points: Sequence[Point], plane: NDArray[np.float64]) -> Any:
    """Circles, dots, and lines from dots to the senses they are neighbours of; returns what was scattered."""
    for point, place in zip(points, plane, strict=True):
        axes.plot(
            *zip(place, plane[point.beside], strict=True),
            color=COLOURS[point.word],
            alpha=0.3,
            linewidth=0.8,
            zorder=1,
        )
    drawn = axes.scatter(
        plane[:, 0],
        plane[:, 1],
        s=[14 if point.share is None else 60 + 1100 * point.share for point in points],
        color=[(*_rgb(point.word), 0.6 if point.share is None else 0.35) for point in points],
        zorder=3,
    )
    axes.margins(0.09)
    return drawn


def _rgb(word: int) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(COLOURS[word])
    return red, green, blue


def _draw_labels(
    axes: Any, points: Sequence[Point], plane: NDArray[np.float64], drawn: Any
) -> None:
    """Every label where it covers neither another nor a circle; a line leads to its point where there was no room beside it."""
    import textalloc

    textalloc.allocate(
        axes,
        plane[:, 0],
        plane[:, 1],
        [point.label for point in points],
        scatter_plot=drawn,
        textsize=[8 if point.share is None else 10 for point in points],
        textcolor=[COLOURS[point.word] for point in points],
        linecolor="0.7",
        linewidth=0.6,
        min_distance=0.008,
        max_distance=0.12,
        margin=0.004,
        avoid_label_lines_overlap=True,
    )


def _draw_list(figure: Any, senses: Sequence[Point], bottom: float, height_inches: float) -> None:
    """One line a sense: its share, and the text nearest to it; then the caption."""
    y = bottom - 0.3 / height_inches
    for point in senses:
        text = snippet(point.context, CONTEXT_CHARACTERS) if point.context else ""
        figure.text(
            0.02,
            y,
            f"{point.label:<14}{point.share or 0.0:>5.0%}  {text}",
            family="monospace",
            fontsize=8,
            color=COLOURS[point.word],
            parse_math=False,
        )
        y -= LINE_INCHES / height_inches
    figure.text(0.02, y - 0.25 / height_inches, CAPTION, fontsize=8, color="0.3")
