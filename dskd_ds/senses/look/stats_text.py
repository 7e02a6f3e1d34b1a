"""Print the statistics of a dictionary as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dskd_ds.senses.intrinsic.separation import Separation
from dskd_ds.senses.look.stats import MIN_VECTORS, Polysemous, Stats


def render(stats: Stats) -> str:
    """Return the statistics as text."""
    lines = [
        *_sizes(stats),
        "",
        *_quantiles(stats),
        "",
        *_shares(stats),
        "",
        *_distances(stats.distances),
    ]
    if stats.polysemous:
        lines += ["", *_polysemous(stats.polysemous)]
    return "\n".join(lines)


def _sizes(stats: Stats) -> list[str]:
    """Return the lines that say how many senses there are, and of what."""
    num_composed = stats.num_rows - stats.num_token_rows
    return [
        f"{stats.folder}: {stats.num_rows:,} senses from {stats.num_vectors:,} vectors of layer"
        f" {stats.layer}",
        f"  {stats.num_token_rows:,} senses of {stats.num_tokens:,} tokens ({stats.num_words:,} of"
        f" them whole words), {num_composed:,} composed for {stats.num_spans:,} phrases of the"
        " lexicons",
    ]


def _quantiles(stats: Stats) -> list[str]:
    """Return the table of quantiles."""
    return [
        f"  {'':<32}{_cells(('least', '1/4', 'median', '3/4', 'most', 'mean'))}",
        _quantile_row("senses per token", stats.senses_per_token, digits=1),
        _quantile_row("vectors per token", stats.vectors_per_token, digits=1),
        _quantile_row("spread of a sense (2+ vectors)", stats.spread, digits=3),
    ]


def _quantile_row(name: str, row: Mapping[str, float], digits: int) -> str:
    """Return one line of quantiles, or one that says that there are none."""
    if not row:
        return f"  {name:<32}     none"
    return f"  {name:<32}{_cells(f'{value:.{digits}f}' for value in row.values())}"


def _shares(stats: Stats) -> list[str]:
    """Return the table of the shares that have relations."""
    rows = (
        ("of tokens with senses", stats.share_of_tokens_with),
        ("of vectors", stats.share_of_vectors_with),
    )
    lines = [f"  {'with relations':<32}{_cells(('synonyms', 'antonyms', 'either'))}"]
    for name, row in rows:
        lines.append(f"  {name:<32}{_cells(f'{value:.1%}' for value in row.values())}")
    return lines


def _cells(texts: Iterable[str]) -> str:
    """Return texts right-aligned in columns of 9 characters."""
    return "".join(f"{text:>9}" for text in texts)


def _distances(found: Separation) -> list[str]:
    """Return the lines about the distances of related words."""
    return [
        "  squared distance per dimension between the nearest senses of two words, median",
        f"    synonyms {found.median_synonym_distance:.2f} ({found.num_synonym_pairs:,} pairs),"
        f" antonyms {found.median_antonym_distance:.2f} ({found.num_antonym_pairs:,}),"
        f" unrelated {found.median_stranger_distance:.2f}",
    ]


def _polysemous(items: Sequence[Polysemous]) -> list[str]:
    """Return the list of the words with the most senses."""
    heading = (
        f"  most senses (words with {MIN_VECTORS} vectors or more): senses, vectors, dispersion"
    )
    lines = [heading]
    for item in items:
        numbers = f"{item.num_senses:>5}{item.num_vectors:>8}{item.dispersion:>9.2f}"
        lines.append(f"    {item.word:<20}{numbers}")
    return lines
