"""`dskd senses stats`: how large a dictionary is, how its senses are spread over tokens, and what the lexicons know of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.intrinsic.separation import Separation, pair_distances, separation
from dskd_ds.senses.look.forms import words_with_senses

MAX_POLYSEMOUS = 12
MIN_VECTORS = 20
"""A token with fewer vectors is not called polysemous: each of them may be a sense by itself."""


@dataclass(frozen=True)
class Polysemous:
    """A token whose senses lie far apart."""

    word: str
    num_senses: int
    num_vectors: int
    dispersion: float
    """Mean squared distance of its senses from their mean, per dimension, each counted by its vectors."""


@dataclass(frozen=True)
class Stats:
    """What `dskd senses stats` prints."""

    folder: str
    layer: int
    num_rows: int
    num_token_rows: int
    num_tokens: int
    """Tokens with senses."""
    num_words: int
    """Those of them that are whole words of two letters or more."""
    num_spans: int
    num_vectors: int
    senses_per_token: dict[str, float]
    """Quantiles over tokens with senses; so are the next two."""
    vectors_per_token: dict[str, float]
    spread: dict[str, float]
    """Over senses of two vectors or more, which alone can have any."""
    share_of_tokens_with: dict[str, float]
    """Of the tokens with senses: synonyms, antonyms, either."""
    share_of_vectors_with: dict[str, float]
    """The same, each token counted by its vectors: about the share of positions where training finds candidates in the lexicons."""
    polysemous: list[Polysemous]
    distances: Separation


def measure(dictionary: SenseDictionary, tokenizer: Any) -> Stats:
    """Everything that is printed."""
    columns = Columns.of(dictionary)
    words = words_with_senses(dictionary, tokenizer)
    facts = dictionary.facts
    return Stats(
        str(dictionary.folder),
        dictionary.layer,
        int(facts["num_rows"]),
        dictionary.num_token_rows,
        len(columns.tokens),
        len(words),
        int(facts["num_spans"]),
        int(columns.vectors.sum()),
        quantiles(columns.senses),
        quantiles(columns.vectors),
        quantiles(columns.spreads),
        _shares(dictionary, columns.tokens, np.ones(len(columns.tokens))),
        _shares(dictionary, columns.tokens, columns.vectors),
        most_polysemous(dictionary, columns, words),
        separation(dictionary),
    )


@dataclass(frozen=True)
class Columns:
    """Per token with senses, and per sense."""

    tokens: NDArray[np.int64]
    senses: NDArray[np.float64]
    """How many each token has."""
    vectors: NDArray[np.float64]
    """Of each token."""
    spreads: NDArray[np.float64]
    """Of the senses with two vectors or more."""

    @staticmethod
    def of(dictionary: SenseDictionary) -> Columns:
        """Of a dictionary; spans are left out, they have no vectors."""
        lengths = np.diff(dictionary.owner_offsets[: dictionary.vocab_size + 1])
        tokens = np.flatnonzero(lengths)
        counts = dictionary.sense_counts[: dictionary.num_token_rows]
        vectors = (
            np.add.reduceat(counts, dictionary.owner_offsets[tokens])
            if len(tokens)
            else np.zeros(0)
        )
        spreads = dictionary.sense_spread[: dictionary.num_token_rows].double().numpy()[counts >= 2]
        return Columns(
            tokens, lengths[tokens].astype(np.float64), vectors.astype(np.float64), spreads
        )


def quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """`least, quarter, median, three_quarters, most, mean`; empty without values."""
    if not len(values):
        return {}
    names = ("least", "quarter", "median", "three_quarters", "most")
    return {
        **dict(zip(names, map(float, np.quantile(values, (0, 0.25, 0.5, 0.75, 1))), strict=True)),
        "mean": float(values.mean()),
    }


def _shares(
    dictionary: SenseDictionary, tokens: NDArray[np.int64], weights: NDArray[np.float64]
) -> dict[str, float]:
    synonyms, antonyms = (
        table.lengths()[tokens] > 0 for table in (dictionary.synonyms, dictionary.antonyms)
    )
    total = max(float(weights.sum()), 1e-9)
    return {
        name: float(weights[mask].sum()) / total
        for name, mask in (
            ("synonyms", synonyms),
            ("antonyms", antonyms),
            ("either", synonyms | antonyms),
        )
    }


def most_polysemous(
    dictionary: SenseDictionary, columns: Columns, words: dict[int, str]
) -> list[Polysemous]:
    """Words with at least MIN_VECTORS vectors, those with the most senses first; where k is fixed, dispersion decides."""
    known = (
        np.array([token in words for token in columns.tokens], bool)
        & (columns.vectors >= MIN_VECTORS)
        & (columns.senses > 1)
    )
    spread_out = dispersion(dictionary, columns.tokens[known])
    order = np.lexsort((-spread_out, -columns.senses[known]))[:MAX_POLYSEMOUS]
    return [
        Polysemous(
            words[int(columns.tokens[known][i])],
            int(columns.senses[known][i]),
            int(columns.vectors[known][i]),
            float(spread_out[i]),
        )
        for i in order
    ]


def dispersion(dictionary: SenseDictionary, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """[T]: see Polysemous."""
    offsets = dictionary.owner_offsets
    result = np.zeros(len(tokens))
    for number, token in enumerate(tokens):
        rows = slice(int(offsets[token]), int(offsets[token + 1]))
        weights = torch.from_numpy(dictionary.sense_counts[rows]).float()
        weights = weights / weights.sum()
        senses = dictionary.senses[rows].float()
        gaps = senses - (weights[:, None] * senses).sum(dim=0)
        result[number] = float((weights * gaps.square().mean(dim=1)).sum())
    return result


def as_json(stats: Stats) -> dict[str, Any]:
    """For json.dumps."""
    return asdict(stats)


def render(stats: Stats) -> str:
    """As text for a terminal."""
    lines = [
        f"{stats.folder}: {stats.num_rows:,} senses from {stats.num_vectors:,} vectors of layer {stats.layer}",
        f"  {stats.num_token_rows:,} senses of {stats.num_tokens:,} tokens ({stats.num_words:,} of them whole words),"
        f" {stats.num_rows - stats.num_token_rows:,} composed for {stats.num_spans:,} phrases of the lexicons",
        "",
        f"  {'':<32}{'least':>9}{'1/4':>9}{'median':>9}{'3/4':>9}{'most':>9}{'mean':>9}",
    ]
    for name, row, digits in (
        ("senses of a token", stats.senses_per_token, 1),
        ("vectors of a token", stats.vectors_per_token, 1),
        ("spread of a sense (2+ vectors)", stats.spread, 3),
    ):
        lines.append(
            f"  {name:<32}" + "".join(f"{value:>9.{digits}f}" for value in row.values())
            if row
            else f"  {name:<32}     none"
        )
    lines += ["", f"  {'with relations':<32}{'synonyms':>9}{'antonyms':>9}{'either':>9}"]
    for name, row in (
        ("of tokens with senses", stats.share_of_tokens_with),
        ("of vectors", stats.share_of_vectors_with),
    ):
        lines.append(f"  {name:<32}" + "".join(f"{value:>9.1%}" for value in row.values()))
    of = stats.distances
    lines += [
        "",
        "  squared distance per dimension of two words' nearest senses, median",
        f"    synonyms {of.median_synonym_distance:.2f} ({of.num_synonym_pairs:,} pairs), antonyms {of.median_antonym_distance:.2f}"
        f" ({of.num_antonym_pairs:,}), strangers {of.median_stranger_distance:.2f}",
    ]
    if stats.polysemous:
        lines += [
            "",
            f"  most senses (words with {MIN_VECTORS} vectors or more): senses, vectors, dispersion",
        ]
        lines += [
            f"    {item.word:<20}{item.num_senses:>5}{item.num_vectors:>8}{item.dispersion:>9.2f}"
            for item in stats.polysemous
        ]
    return "\n".join(lines)


def draw(dictionary: SenseDictionary, output: Path) -> None:
    """Four histograms as a PNG: senses and vectors of tokens, spreads of senses, distances of related words."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = Columns.of(dictionary)
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 6.6), dpi=120)
    blue, (senses, vectors, spreads, distances) = "#1f5fa8", grid.flat
    senses.hist(
        columns.senses,
        bins=np.arange(0.5, max(columns.senses.max(initial=1), 1) + 1),
        color=blue,
        rwidth=0.9,
    )
    senses.set(title="senses of a token", xlabel="senses", ylabel="tokens")
    vectors.hist(
        columns.vectors,
        bins=2.0 ** np.arange(0, 2 + int(np.log2(columns.vectors.max(initial=1)))),
        color=blue,
    )
    vectors.set(
        title="vectors of a token",
        xlabel="vectors (bins double)",
        ylabel="tokens",
        xscale="log",
        yscale="log",
    )
    spreads.hist(columns.spreads, bins=40, color=blue)
    spreads.set(
        title="spread of senses of 2+ vectors",
        xlabel="mean squared distance per dimension",
        ylabel="senses",
    )
    kinds = (("synonyms", blue), ("antonyms", "#c8501e"), ("strangers", "0.5"))
    for values, (name, colour) in zip(pair_distances(dictionary), kinds, strict=True):
        if len(values):
            distances.hist(
                values,
                bins=30,
                density=True,
                histtype="step",
                linewidth=1.6,
                color=colour,
                label=f"{name} ({len(values):,})",
            )
            distances.legend(fontsize=8, title="pairs of")
    distances.set(
        title="nearest senses of two words",
        xlabel="squared distance per dimension",
        ylabel="density",
    )
    figure.suptitle(f"{dictionary.folder}, layer {dictionary.layer}", fontsize=9, color="0.4")
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, format="png")
    pyplot.close(figure)
