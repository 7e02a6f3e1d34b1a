"""Draw the statistics of a dictionary as four histograms in a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dskd_ds.files.output import writing_output
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.separation import pair_distances
from dskd_ds.senses.look.stats import Columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#1f5fa8", "#c8501e", "0.5"


def draw(dictionary: SenseDictionary, output: Path) -> None:
    """Write the PNG: senses and vectors per token, spreads of senses, distances between words.

    Raises InputError if it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = Columns.of(dictionary)
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 6.6), dpi=120)
    top_left, top_right, bottom_left, bottom_right = grid.flat
    _draw_senses(top_left, columns)
    _draw_vectors(top_right, columns)
    _draw_spreads(bottom_left, columns)
    _draw_distances(bottom_right, dictionary)
    figure.suptitle(f"{dictionary.folder}, layer {dictionary.layer}", fontsize=9, color="0.4")
    figure.tight_layout()
    with writing_output(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, format="png")
    pyplot.close(figure)


def _draw_senses(axes: Axes, columns: Columns) -> None:
    """Draw how many tokens have how many senses."""
    most_senses = max(columns.senses.max(initial=1), 1)
    bins = np.arange(0.5, most_senses + 1).tolist()  # one bar per number of senses
    axes.hist(columns.senses, bins=bins, color=BLUE, rwidth=0.9)
    axes.set(title="senses per token", xlabel="senses", ylabel="tokens")


def _draw_vectors(axes: Axes, columns: Columns) -> None:
    """Draw how many tokens have how many vectors, on logarithmic axes."""
    num_doublings = int(np.log2(columns.vectors.max(initial=1)))
    bins = [2.0**exponent for exponent in range(2 + num_doublings)]
    axes.hist(columns.vectors, bins=bins, color=BLUE)
    axes.set(
        title="vectors per token",
        xlabel="vectors (bins double)",
        ylabel="tokens",
        xscale="log",
        yscale="log",
    )


def _draw_spreads(axes: Axes, columns: Columns) -> None:
    """Draw the spread of the senses that were made from two or more vectors."""
    axes.hist(columns.spreads, bins=40, color=BLUE)
    axes.set(
        title="spread of senses of 2+ vectors",
        xlabel="mean squared distance per dimension",
        ylabel="senses",
    )


def _draw_distances(axes: Axes, dictionary: SenseDictionary) -> None:
    """Draw the distances between the nearest senses of two words, by how the words are related."""
    kinds = (("synonyms", BLUE), ("antonyms", ORANGE), ("unrelated words", GREY))
    for distances, (name, colour) in zip(pair_distances(dictionary), kinds, strict=True):
        if len(distances):
            axes.hist(
                distances,
                bins=30,
                density=True,
                histtype="step",
                linewidth=1.6,
                color=colour,
                label=f"{name} ({len(distances):,})",
            )
            axes.legend(fontsize=8, title="pairs of")
    axes.set(
        title="nearest senses of two words",
        xlabel="squared distance per dimension",
        ylabel="density",
    )
