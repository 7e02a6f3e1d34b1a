"""The report's charts of losses below the head, of which each run has other ones."""

from __future__ import annotations

from collections.abc import Iterable

from dskd_ds.observe.charts import TERM_COSINE, TERM_LOSS, TERM_PEAKED, TERM_SHARE, TERM_WEIGHT

Chart = tuple[str, str, tuple[tuple[str, str], ...]]
"""Title, axis label, and (key of metrics.jsonl, legend) of each curve."""

TITLES = {
    TERM_LOSS: ("Losses below the head", "mean over positions"),
    TERM_WEIGHT: ("Weights of losses below the head", "weight"),
    TERM_SHARE: ("Gradients of losses below the head", "norm over that of all other losses"),
    TERM_COSINE: (
        "Do losses below the head agree with the others?",
        "cosine of the gradients; negative: they work against each other",
    ),
    TERM_PEAKED: (
        "Is the teacher sure of a position's sense?",
        "share of positions where one of several senses has more than 0.9",
    ),
}
"""Beginning of the keys -> title and axis label of their chart."""


def term_charts(keys: Iterable[str]) -> list[Chart]:
    """Return the charts of the losses below the head that these keys of metrics.jsonl belong to."""
    known = sorted(keys)
    charts: list[Chart] = []
    for beginning, (title, axis) in TITLES.items():
        names = [key for key in known if key.startswith(beginning)]
        curves = tuple((name, _legend(name.removeprefix(beginning))) for name in names)
        if curves:
            charts.append((title, axis, curves))
    return charts


def _legend(name: str) -> str:
    """Return the legend of a curve. name: layer and kind, as in `11_cosine`."""
    layer, kind = name.split("_")
    return f"{kind}, layer {layer}"
