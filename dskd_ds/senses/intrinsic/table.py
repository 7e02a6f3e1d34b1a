"""Print the results of `dskd senses eval` as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from dskd_ds.senses.intrinsic.results import (
    ContextResult,
    Correlation,
    DictionaryFacts,
    PolysemyResult,
    SenseArea,
    SenseEvaluation,
    SimilarityResult,
    StateArea,
    StateCorrelation,
)
from dskd_ds.senses.intrinsic.separation import Separation

READING = """\
How to read this. AUC is the probability that a pair of one kind scores above a pair of the other
kind: 0.5 is chance, 1 is perfect.
  word in context   Two example sentences with the same word, either of one WordNet synset or of two
                    fields of meaning.
                    before: the state that predicts the word; on: the state that has read it. A
                    dictionary holds states of the one kind or the other ([senses] attribution).
                    Compare only numbers of one column, and only if they differ by more than about
                    twice the +- (a standard error over words).
                    A layer with a high cosine represents most of the word's meaning. (The sense
                    term of [loss] needs a dictionary of layer -1, [[loss.terms]] one of a layer.)
                    A dictionary with a high `same` has senses that correspond to meanings.
                    same: whether the nearest sense is the same; centroid: cosine of the nearest
                    senses; soft: cosine of soft assignments.
                    own: candidates are the word's own senses; lexical: and those of its synonyms,
                    as in training.
  separation        Squared distance per dimension between the nearest senses of two words. If
                    `syn < ant` is below 0.5, antonyms are nearer than synonyms. That is usual for
                    states that predict words; the loss pushes antonyms away for this reason.
  similarity        Spearman correlation with people's ratings; 0 is no correlation. In brackets:
                    the number of pairs whose words could be looked up.
  polysemy          Spearman correlation of a word's number of senses with its number of synsets in
                    WordNet; equal frequency: among words that are equally frequent in the
                    dictionary's corpus. With [senses] clustering = "fixed" the number of senses
                    follows from the frequency; "adaptive" chooses it.
"""
LABEL_WIDTH = 52
"""Characters of the first column."""
VALUE_WIDTH = 18
"""Characters of a column of values."""


def render(result: SenseEvaluation) -> str:
    """Return one table per part that was measured."""
    tables = [_dictionaries(result.dictionaries)]
    if result.context is not None:
        tables.append(_context(result.context))
    if result.separation is not None:
        tables.append(_separation(result.separation))
    if result.similarity is not None:
        tables.append(_similarity(result.similarity))
    if result.polysemy is not None:
        tables.append(_polysemy(result.polysemy))
    return "\n\n".join(tables)


def _dictionaries(dictionaries: Mapping[str, DictionaryFacts]) -> str:
    """Return a line per dictionary."""
    return "\n".join(
        f"{name}: {facts.num_rows:,} senses of {facts.num_tokens:,} tokens, layer {facts.layer},"
        f" {facts.folder}"
        for name, facts in dictionaries.items()
    )


def _line(label: str, *values: str) -> str:
    """Return a line of a table: a label and columns of values."""
    columns = "".join(f"{value:<{VALUE_WIDTH}}" for value in values)
    return f"  {label:<{LABEL_WIDTH}}{columns}".rstrip()


def _context(found: ContextResult) -> str:
    """Return the table of the word-in-context test."""
    lines = [
        f"word in context: AUC over {found.num_pairs} pairs of {found.num_lemmas} words"
        f" ({found.num_tuning_pairs} pairs of other words chose the temperatures)",
        _line(
            "by",
            f"all {found.num_pairs} pairs",
            f"{found.num_common_pairs} in every dictionary",
        ),
    ]
    for over_all, over_common in zip(found.all, found.common, strict=True):
        label = f"cosine of states, layer {over_all.layer}, {over_all.position}"
        lines.append(_line(label, _area(over_all), _area(over_common)))
    for name, areas in found.senses.items():
        for area in areas:
            label = f"{name}, {area.candidates} senses, {area.score}, {area.position}"
            lines.append(_line(label, "", _area(area)))
    return "\n".join(lines)


def _area(area: StateArea | SenseArea) -> str:
    """Return an AUC with its standard error."""
    return f"{area.auc:.3f} +- {area.error:.3f}"


def _separation(separations: Mapping[str, Separation]) -> str:
    """Return the table of the distances of related words."""
    lines = [
        "separation: median distance of nearest senses, and AUC",
        f"  {'dictionary':<16}{'synonyms':>10}{'antonyms':>10}{'unrelated':>10}"
        f"   {'syn < ant':>10}{'syn < unr':>10}{'ant < unr':>10}   {'pairs (syn, ant)':>18}",
    ]
    for name, found in separations.items():
        medians = (
            found.median_synonym_distance,
            found.median_antonym_distance,
            found.median_stranger_distance,
        )
        areas = (
            found.synonyms_below_antonyms,
            found.synonyms_below_strangers,
            found.antonyms_below_strangers,
        )
        medians_text = "".join(f"{median:>10.2f}" for median in medians)
        areas_text = "".join(f"{area:>10.3f}" for area in areas)
        num_pairs = f"{found.num_synonym_pairs:,}, {found.num_antonym_pairs:,}"
        lines.append(f"  {name:<16}{medians_text}   {areas_text}   {num_pairs:>18}")
    return "\n".join(lines)


def _similarity(by_ratings: Mapping[str, SimilarityResult]) -> str:
    """Return the table of the correlations with people's ratings: a column per list of ratings."""
    results = list(by_ratings.values())
    lines = [
        "similarity: Spearman correlation with people's ratings (pairs)",
        _line("by", *by_ratings),
    ]
    for rows in zip(*(result.states for result in results), strict=True):
        label = f"cosine of states, layer {rows[0].layer}"
        lines.append(_line(label, *(_correlation(row) for row in rows)))
    for name, scores in results[0].senses.items():
        for score in scores:
            values = [_correlation(result.senses[name][score]) for result in results]
            lines.append(_line(f"{name}, {score} senses", *values))
    return "\n".join(lines)


def _correlation(row: StateCorrelation | Correlation) -> str:
    """Return a correlation and the number of pairs."""
    return f"{row.spearman:.3f} ({row.num_pairs})"


def _polysemy(by_dictionary: Mapping[str, PolysemyResult]) -> str:
    """Return the table of the numbers of senses against WordNet's numbers of meanings."""
    lines = [
        "polysemy: Spearman correlation of numbers of senses with WordNet's numbers of meanings",
        _line("by", "all words", "equal frequency", "words"),
    ]
    for name, found in by_dictionary.items():
        values = (found.spearman, found.spearman_at_equal_frequency)
        lines.append(_line(name, *(f"{value:.3f}" for value in values), f"{found.num_words:,}"))
    return "\n".join(lines)
