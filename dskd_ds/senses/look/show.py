"""`dskd senses show`: a word's senses with their shares, contexts and nearest words, and its relations."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from dskd_ds.lexicon.relations import Ragged
from dskd_ds.senses.dictionary.contexts import Context
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.forms import Form, forms_of, rows_of, words_with_senses
from dskd_ds.senses.look.nearest import neighbours

MAX_CONTEXTS = 3
MAX_NEIGHBOURS = 6
MAX_RELATED = 12
WIDTH = 40
"""Characters of text on each side of a token."""


@dataclass(frozen=True)
class NearWord:
    """A word that has a sense near."""

    word: str
    distance: float
    """Squared, per dimension."""


@dataclass(frozen=True)
class SenseView:
    """One sense as it is shown."""

    number: int
    """From 1, the most frequent first."""
    row: int
    """Of the dictionary."""
    count: int
    """Vectors it was made from; 0 for a phrase, whose senses are means of its tokens'."""
    share: float
    """Of the form's vectors."""
    spread: float
    """Mean squared distance of its vectors from it, per dimension."""
    contexts: list[Context]
    nearest: list[NearWord]


@dataclass(frozen=True)
class FormView:
    """One form of a word as it is shown."""

    form: str
    owner: int
    num_vectors: int
    senses: list[SenseView]
    synonyms: list[str]
    antonyms: list[str]


def look_up(dictionary: SenseDictionary, tokenizer: Any, word: str) -> list[FormView]:
    """Everything about a word. Raises InputError if it has no senses."""
    words = words_with_senses(dictionary, tokenizer)
    return [
        _view(dictionary, tokenizer, form, words) for form in forms_of(dictionary, tokenizer, word)
    ]


def _view(
    dictionary: SenseDictionary, tokenizer: Any, form: Form, words: dict[int, str]
) -> FormView:
    rows = form.rows(dictionary)
    counts = dictionary.sense_counts[rows]
    contexts, near = (
        dictionary.contexts_of(rows.tolist()),
        neighbours(dictionary, rows, rows_of(dictionary, words), MAX_NEIGHBOURS),
    )
    senses = [
        SenseView(
            number,
            int(row),
            int(count),
            float(count) / max(1, int(counts.sum())),
            float(dictionary.sense_spread[int(row)]),
            contexts[int(row)][:MAX_CONTEXTS],
            [NearWord(words[n.owner], n.distance) for n in nearest],
        )
        for number, (row, count, nearest) in enumerate(zip(rows, counts, near, strict=True), 1)
    ]

    def related(table: Ragged) -> list[str]:
        # Tokens and phrases alike; a phrase itself has no relations of its own.
        owners = table.row(form.owner).tolist() if form.owner < dictionary.vocab_size else []
        return [dictionary.owner_name(owner, tokenizer).strip() for owner in owners]

    return FormView(
        form.text,
        form.owner,
        int(counts.sum()),
        senses,
        related(dictionary.synonyms),
        related(dictionary.antonyms),
    )


def as_json(views: list[FormView]) -> list[dict[str, Any]]:
    """For json.dumps."""
    return [asdict(view) for view in views]


def render(view: FormView) -> str:
    """A form as text for a terminal."""
    made_of = (
        f"{view.num_vectors} vectors"
        if view.num_vectors
        else "composed from the senses of its tokens"
    )
    lines = [
        f"{view.form}: {len(view.senses)} sense{'s' if len(view.senses) > 1 else ''}, {made_of} (owner {view.owner})"
    ]
    for name, words in (("synonyms", view.synonyms), ("antonyms", view.antonyms)):
        more = f" and {len(words) - MAX_RELATED} more" if len(words) > MAX_RELATED else ""
        lines.append(f"  {name}: {', '.join(words[:MAX_RELATED]) or 'none in the lexicons'}{more}")
    for sense in view.senses:
        facts = (
            f"{sense.share:.0%} of the vectors ({sense.count}), spread {sense.spread:.2f}"
            if sense.count
            else "composed"
        )
        lines.append(f"  sense {sense.number}: {facts}")
        lines += [f"      {snippet(context)}" for context in sense.contexts]
        lines.append(
            "      near: " + ", ".join(f"{near.word} {near.distance:.2f}" for near in sense.nearest)
        )
    return "\n".join(lines)


def snippet(context: Context, width: int = WIDTH) -> str:
    """`left »token« right` on one line, cut at whole words to at most `width` characters a side, the tokens below one another.

    A token of white space is shown as »↵«.
    """
    left, token, right = (
        re.sub(r"\s", " ", part) for part in (context.left, context.token, context.right)
    )
    if token.startswith(" "):
        left += " "  # a space that is part of the token reads better before the mark
    if len(left) > width:
        left = left[-width:].partition(" ")[2] or left[-width:]
    if len(right) > width:
        right = right[:width].rpartition(" ")[0] or right[:width]
    return f"{left:>{width}}»{token.strip() or '↵'}«{right}"
