"""Measures how well the negation rule that uses no glosses agrees with WordNet.

    python -m dskd_ds.bench.lexicon WORDNET_FOLDER

The test words have a negating affix and a base that is a word too. WordNet marks a negation by an
antonym pointer to the base; without a pointer, a gloss may deny something ("lacking fear"). Many
pointers are missing (`endless` and `disbelief` have none), so the precision against pointers is a
lower bound. The figures are given against both references.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dskd_ds.bench.measure import Figure
from dskd_ds.lexicon.merge import Relations, relations_of
from dskd_ds.lexicon.negation import base_of, looks_negated
from dskd_ds.lexicon.sources import read_source
from dskd_ds.spec.lexicons import LexiconSpec


def negation_figures(wordnet: Path, other: LexiconSpec | None = None) -> list[Figure]:
    """Return the rule's precision and recall.

    The rule sees only synonyms: those of WordNet, or of the English lexicon `other`.
    """
    source = read_source(LexiconSpec(kind="wordnet", path=str(wordnet)))
    truth = relations_of(source.table())
    seen = relations_of(read_source(other).table()) if other else truth
    known = set(truth.words())
    # Words that the other lexicon lacks are left out: the rule would see nothing of them.
    words = sorted(known & set(seen.words()))
    tested = [(word, base) for word in words if (base := base_of(word)) in known]
    by_pointer = {word for word, base in tested if base in truth.antonyms.get(word, ())}
    by_gloss = {word for word, base in tested if source.verdicts.get(word) == base}
    return [
        *_figures(tested, by_pointer, seen, "pointer"),
        *_figures(tested, by_pointer | by_gloss, seen, "pointer_or_gloss"),
    ]


def _figures(
    tested: list[tuple[str, str]], marked: set[str], seen: Relations, reference: str
) -> list[Figure]:
    """Return precision and recall over pairs (word, base). marked: the words that WordNet marks."""
    found = {word for word, base in tested if looks_negated(word, base, seen.synonyms)}
    notes = {"asked": len(tested), "marked": len(marked), "found": len(found)}
    num_correct = len(found & marked)
    return [
        Figure(
            key=f"negation_precision_{reference}",
            what=f"share of the rule's negations that WordNet marks ({reference})",
            value=num_correct / max(1, len(found)),
            notes=notes,
        ),
        Figure(
            key=f"negation_recall_{reference}",
            what=f"share of the words marked by WordNet ({reference}) that the rule finds",
            value=num_correct / max(1, len(marked)),
            notes=notes,
        ),
    ]


def main() -> None:
    """Parse the arguments and print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m dskd_ds.bench.lexicon", description=__doc__.splitlines()[0]
    )
    parser.add_argument("wordnet", type=Path, help="folder of WordNet's database files")
    parser.add_argument(
        "--moby", help="let the rule see this Moby thesaurus instead of WordNet's synonyms"
    )
    args = parser.parse_args()
    other = LexiconSpec(kind="moby", path=args.moby) if args.moby else None
    for figure in negation_figures(args.wordnet, other):
        print(f"{figure.key:<40}{figure.value:>8.3f}   {figure.notes}")


if __name__ == "__main__":
    main()
