"""How well the rule for negations without glosses agrees with WordNet's own marks: `python -m dskd_ds.bench.lexicon WORDNET_FOLDER`.

Asked are the words with a negating affix whose base is a word too. WordNet marks a negation by an antonym pointer to the base; where
it has no pointer, a gloss may deny something ("lacking fear"). Pointers are far from complete (`endless`, `disbelief` have none),
so precision against them is a lower bound, and both truths are given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dskd_ds.bench.measure import Figure
from dskd_ds.lexicon.merge import Relations, relations_of
from dskd_ds.lexicon.negation import base_of, looks_negated
from dskd_ds.lexicon.sources import read_source
from dskd_ds.spec.senses import LexiconSpec


def negation_figures(wordnet: Path, other: LexiconSpec | None = None) -> list[Figure]:
    """Precision and recall of the rule, which sees only the synonyms of WordNet (or of another English lexicon)."""
    source = read_source(LexiconSpec(kind="wordnet", path=str(wordnet)))
    truth = relations_of(source.table())
    seen = relations_of(read_source(other).table()) if other else truth
    known = set(truth.words())
    asked = [
        (word, base)
        for word in sorted(known & set(seen.words()))
        if (base := base_of(word)) in known
    ]
    pointer = {word for word, base in asked if base in truth.antonyms.get(word, ())}
    either = pointer | {word for word, base in asked if source.verdicts.get(word) == base}
    return [
        figure
        for name, marked in (("pointer", pointer), ("pointer_or_gloss", either))
        for figure in _figures(asked, marked, seen, name)
    ]


def _figures(
    asked: list[tuple[str, str]], marked: set[str], seen: Relations, truth: str
) -> list[Figure]:
    found = {word for word, base in asked if looks_negated(word, base, seen.synonyms)}
    notes = {"asked": len(asked), "marked": len(marked), "found": len(found)}
    right = len(found & marked)
    return [
        Figure(
            f"negation_precision_{truth}",
            f"words the rule calls negations: share that WordNet marks ({truth})",
            right / max(1, len(found)),
            notes=notes,
        ),
        Figure(
            f"negation_recall_{truth}",
            f"words WordNet marks ({truth}): share that the rule finds",
            right / max(1, len(marked)),
            notes=notes,
        ),
    ]


def main() -> None:
    """Print the figures."""
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
