"""Draw a map of senses as a PNG: points, labels that do not overlap, and a list of the senses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.files.output import writing_output
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.map import Point, choose_points, layout
from dskd_ds.senses.look.show import snippet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#c8501e", "#2a8a4a", "#8a3fa0", "#b8860b", "#c2185b", "#00838f", "#5d4037")
"""One per word; dark enough to be read as text on white."""
CAPTION = (
    "t-SNE: points that lie close together are similar; larger distances mean little. A circle is"
    " a sense of a word; its area\n"
    "is the share of the word's vectors. A small dot, joined to a circle by a line, is a sense of"
    " another word near to it. The list\n"
    "shows the text where the state nearest to each sense was found: »the token it belongs to«."
)
WIDTH_INCHES, MAP_INCHES, LINE_INCHES = 11.0, 7.0, 0.19
CONTEXT_CHARACTERS = 62
"""Characters of text on each side of a word in the list below the map."""


def draw_map(
    dictionary: SenseDictionary, tokenizer: Any, words: Sequence[str], output: Path
) -> list[Point]:
    """Write a map of the words' senses as a PNG and return its points.

    Raises InputError as `choose_points` does, or if the file cannot be written.
    """
    points = choose_points(dictionary, tokenizer, words)
    rows = torch.tensor([point.row for point in points])
    plane = layout(dictionary.senses[rows].float())
    source = f"{dictionary.folder}, layer {dictionary.layer}"
    write_picture(points, plane, source=source, output=output)
    return points


def write_picture(
    points: Sequence[Point], plane: NDArray[np.float64], source: str, output: Path
) -> None:
    """Write the PNG. plane: [N, 2] coordinates of the points. source: shown at the top right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    senses = [point for point in points if point.share is not None]
    list_inches = LINE_INCHES * len(senses) + 0.8
    height_inches = MAP_INCHES + list_inches
    figure = pyplot.figure(figsize=(WIDTH_INCHES, height_inches), dpi=130)
    bottom = list_inches / height_inches
    axes = figure.add_axes((0.02, bottom, 0.96, 0.96 - bottom))
    scatter = _draw_points(axes, points, plane)
    axes.set(xticks=[], yticks=[])
    words = list(dict.fromkeys(point.label.rpartition(" ")[0] for point in senses))
    axes.set_title(f"senses of {', '.join(words)}", fontsize=13, loc="left")
    axes.set_title(source, fontsize=8, loc="right", color="0.4")
    _draw_labels(axes, points, plane=plane, scatter=scatter)
    _draw_list(figure, senses, bottom=bottom, height_inches=height_inches)
    with warnings.catch_warnings(), writing_output(output):
        # A script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, format="png")
    pyplot.close(figure)


def _draw_points(axes: Axes, points: Sequence[Point], plane: NDArray[np.float64]) -> PathCollection:
    """Draw circles, dots, and a line from each dot to its sense; return the scatter plot."""
    for point, position in zip(points, plane, strict=True):
        (x, y), (sense_x, sense_y) = position, plane[point.neighbour_of]
        axes.plot(
            (x, sense_x),
            (y, sense_y),
            color=COLOURS[point.word_index],
            alpha=0.3,
            linewidth=0.8,
            zorder=1,
        )
    # Even the circle of a rare sense is larger than a neighbour's dot.
    areas = [14 if point.share is None else 60 + 1100 * point.share for point in points]
    scatter = axes.scatter(
        plane[:, 0],
        plane[:, 1],
        s=areas,
        color=[_fill_colour(point) for point in points],
        zorder=3,
    )
    axes.margins(0.09)
    return scatter


def _fill_colour(point: Point) -> tuple[float, float, float, float]:
    """Return red, green, blue and opacity of a point."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(COLOURS[point.word_index])
    return red, green, blue, 0.6 if point.share is None else 0.35


def _draw_labels(
    axes: Axes,
    points: Sequence[Point],
    plane: NDArray[np.float64],
    scatter: PathCollection,
) -> None:
    """Place every label where it covers neither another label nor a circle.

    A label that does not fit beside its point is connected to it by a line.
    """
    import textalloc

    labels = [point.label for point in points]
    textalloc.allocate(
        axes,
        plane[:, 0],
        plane[:, 1],
        labels,
        scatter_plot=scatter,
        textsize=[8 if point.share is None else 10 for point in points],
        textcolor=[COLOURS[point.word_index] for point in points],
        linecolor="0.7",
        linewidth=0.6,
        min_distance=0.008,
        max_distance=0.12,
        margin=0.004,
        avoid_label_lines_overlap=True,
    )


def _draw_list(
    figure: Figure, senses: Sequence[Point], bottom: float, height_inches: float
) -> None:
    """Write a line per sense with its share and the text nearest to it; then the caption.

    bottom: lower edge of the map, as a fraction of the figure's height.
    """
    y = bottom - 0.3 / height_inches
    for point in senses:
        text = snippet(point.context, CONTEXT_CHARACTERS) if point.context else ""
        figure.text(
            0.02,
            y,
            f"{point.label:<14}{point.share or 0.0:>5.0%}  {text}",
            family="monospace",
            fontsize=8,
            color=COLOURS[point.word_index],
            parse_math=False,
        )
        y -= LINE_INCHES / height_inches
    figure.text(0.02, y - 0.25 / height_inches, CAPTION, fontsize=8, color="0.3")
