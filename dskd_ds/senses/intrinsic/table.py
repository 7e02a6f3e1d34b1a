"""The result of `dskd senses eval` as text."""

from __future__ import annotations

from typing import Any

READING = """\
How to read this. AUC is the chance that a pair of one kind scores above a pair of the other: 0.5 is guessing, 1 is perfect.
  word in context   two example sentences of a word: of one WordNet synset, or of two fields of meaning. `before`: the state that
                    predicts the word (a dictionary's vectors are such states); `on`: the state that has read it. Compare numbers
                    of one column only, and only where they differ by more than about two of the +- (a standard error over words).
                    A layer with a high cosine knows most of the word's meaning (training needs dictionaries of layer -1; others
                    are for looking and comparing). A dictionary with a high `same` has senses that are meanings.
                    same: the same nearest sense or not; centroid: cosine of the nearest senses; soft: cosine of soft assignments.
                    own: among the word's own senses; lexical: and those of its synonyms, as in training.
  separation        distance (squared, per dimension) of the nearest senses of two words. Below 0.5 in `syn < ant` antonyms lie
                    nearer than synonyms: usual for states that predict words, and what the loss's push is for.
  similarity        Spearman correlation with people's ratings; 0 is none. In brackets: how many pairs could be looked up.
"""
LABEL = 52
"""Width of the first column."""


def render(result: dict[str, Any]) -> str:
    """The tables, one a part."""
    names = {"context": _context, "separation": _separation, "similarity": _similarity}
    return "\n\n".join(
        [
            _dictionaries(result["dictionaries"]),
            *(make(result[part]) for part, make in names.items() if part in result),
        ]
    )


def _dictionaries(dictionaries: dict[str, Any]) -> str:
    return "\n".join(
        f"{name}: {facts['num_rows']:,} senses of {facts['num_tokens']:,} tokens, layer {facts['layer']}, {facts['folder']}"
        for name, facts in dictionaries.items()
    )


def _context(part: dict[str, Any]) -> str:
    common = {(row["layer"], row["position"]): row for row in part.get("common", ())}
    lines = [
        f"word in context: AUC over {part['num_pairs']} pairs of {part['num_lemmas']} words"
        f" ({part['num_tuning_pairs']} pairs of other words chose the temperatures)"
    ]
    heading = f"all {part['num_pairs']} pairs"
    lines.append(
        f"  {'by':<{LABEL}}{heading:<18}"
        + (f"{part['num_common_pairs']} in every dictionary" if common else "")
    )
    for row in part["all"]:
        of_common = common.get((row["layer"], row["position"]))
        lines.append(
            f"  {'cosine of states, layer ' + str(row['layer']) + ', ' + row['position']:<{LABEL}}{_area(row):<18}"
            + (_area(of_common) if of_common else "")
        )
    for name, rows in part.get("senses", {}).items():
        lines += [
            f"  {name + ', ' + row['candidates'] + ' senses, ' + row['score'] + ', ' + row['position']:<{LABEL}}{'':<18}{_area(row)}"
            for row in rows
        ]
    return "\n".join(lines)


def _area(row: dict[str, Any]) -> str:
    return f"{row['auc']:.3f} +- {row['error']:.3f}"


def _separation(part: dict[str, Any]) -> str:
    lines = [
        "separation: median distance of nearest senses, and AUC",
        f"  {'dictionary':<16}{'synonyms':>10}{'antonyms':>10}{'strangers':>10}   {'syn < ant':>10}{'syn < str':>10}{'ant < str':>10}"
        f"   {'pairs (syn, ant)':>18}",
    ]
    for name, row in part.items():
        distances = "".join(
            f"{row[f'median_{kind}_distance']:>10.2f}"
            for kind in ("synonym", "antonym", "stranger")
        )
        areas = "".join(
            f"{row[key]:>10.3f}"
            for key in (
                "synonyms_below_antonyms",
                "synonyms_below_strangers",
                "antonyms_below_strangers",
            )
        )
        pairs = f"{row['num_synonym_pairs']:,}, {row['num_antonym_pairs']:,}"
        lines.append(f"  {name:<16}{distances}   {areas}   {pairs:>18}")
    return "\n".join(lines)


def _similarity(part: dict[str, Any]) -> str:
    lines = [
        "similarity: Spearman correlation with people's ratings (pairs)",
        f"  {'by':<{LABEL}}" + "".join(f"{name:<18}" for name in part),
    ]
    lists = list(part.values())
    for number, row in enumerate(lists[0]["states"]):
        lines.append(
            f"  {'cosine of states, layer ' + str(row['layer']):<{LABEL}}"
            + "".join(_correlation(ratings["states"][number]) for ratings in lists)
        )
    for name, scores in lists[0]["senses"].items():
        for score in scores:
            found = "".join(_correlation(ratings["senses"][name][score]) for ratings in lists)
            lines.append(f"  {name + ', ' + score + ' senses':<{LABEL}}{found}")
    return "\n".join(lines)


def _correlation(row: dict[str, Any]) -> str:
    return f"{row['spearman']:.3f} ({row['num_pairs']})".ljust(18)
