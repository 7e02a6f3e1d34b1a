"""`dskd senses show`: a word's senses with shares, contexts, nearest words, and its relations."""

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
    """A word with a sense near another sense."""

    word: str
    distance: float
    """Squared distance per dimension."""


@dataclass(frozen=True)
class SenseView:
    """What is shown of one sense."""

    number: int
    """Counts from 1; the most frequent sense is first."""
    row: int
    """Row of the dictionary."""
    count: int
    """Vectors that the sense was made from; 0 for a phrase, whose senses are means of its tokens'
    senses."""
    share: float
    """Share (0 to 1) of the form's vectors."""
    spread: float
    """Mean squared distance of the sense's vectors from it, per dimension."""
    contexts: list[Context]
    nearest: list[NearWord]


@dataclass(frozen=True)
class FormView:
    """What is shown of one form of a word."""

    form: str
    owner: int
    num_vectors: int
    senses: list[SenseView]
    synonyms: list[str]
    antonyms: list[str]


def look_up(dictionary: SenseDictionary, tokenizer: Any, word: str) -> list[FormView]:
    """Return what is shown of each form of a word. Raises InputError if the word has no senses."""
    words = words_with_senses(dictionary, tokenizer)
    forms = forms_of(dictionary, tokenizer, word)
    views: list[FormView] = []
    for form in forms:
        view = FormView(
            form=form.text,
            owner=form.owner,
            num_vectors=int(dictionary.sense_counts[form.rows(dictionary)].sum()),
            senses=_senses(dictionary, form, words),
            synonyms=_related(dictionary, tokenizer, form=form, table=dictionary.synonyms),
            antonyms=_related(dictionary, tokenizer, form=form, table=dictionary.antonyms),
        )
        views.append(view)
    return views


def _senses(dictionary: SenseDictionary, form: Form, words: dict[int, str]) -> list[SenseView]:
    """Return what is shown of each sense. words: token -> word, of the possible neighbours."""
    rows = form.rows(dictionary)
    counts = dictionary.sense_counts[rows]
    num_vectors = max(1, int(counts.sum()))  # the senses of a phrase have no vectors
    contexts = dictionary.contexts_of(rows.tolist())
    near = neighbours(
        dictionary,
        rows,
        among=rows_of(dictionary, words),
        max_neighbours=MAX_NEIGHBOURS,
    )
    senses: list[SenseView] = []
    for number, (row, nearest) in enumerate(zip(rows.tolist(), near, strict=True), 1):
        count = int(dictionary.sense_counts[row])
        sense = SenseView(
            number=number,
            row=row,
            count=count,
            share=count / num_vectors,
            spread=float(dictionary.sense_spread[row]),
            contexts=contexts[row][:MAX_CONTEXTS],
            nearest=[NearWord(words[item.owner], item.distance) for item in nearest],
        )
        senses.append(sense)
    return senses


def _related(dictionary: SenseDictionary, tokenizer: Any, form: Form, table: Ragged) -> list[str]:
    """Return the related tokens and phrases as text; a phrase itself has no relations."""
    if form.owner >= dictionary.vocab_size:
        return []
    owners = table.row(form.owner).tolist()
    return [dictionary.owner_name(owner, tokenizer).strip() for owner in owners]


def as_json(views: list[FormView]) -> list[dict[str, Any]]:
    """Return the views as JSON-serializable values."""
    return [asdict(view) for view in views]


def render(view: FormView) -> str:
    """Return a form as text for a terminal."""
    plural = "s" if len(view.senses) > 1 else ""
    if view.num_vectors:
        origin = f"{view.num_vectors} vectors"
    else:
        origin = "composed from the senses of its tokens"
    lines = [
        f"{view.form}: {len(view.senses)} sense{plural}, {origin} (owner {view.owner})",
        _render_related("synonyms", view.synonyms),
        _render_related("antonyms", view.antonyms),
    ]
    for sense in view.senses:
        lines += _render_sense(sense)
    return "\n".join(lines)


def _render_related(name: str, words: list[str]) -> str:
    """Return the line of a form's synonyms or antonyms."""
    shown = ", ".join(words[:MAX_RELATED]) or "none in the lexicons"
    more = f" and {len(words) - MAX_RELATED} more" if len(words) > MAX_RELATED else ""
    return f"  {name}: {shown}{more}"


def _render_sense(sense: SenseView) -> list[str]:
    """Return the lines of one sense: its share, its contexts, the nearest words."""
    facts = "composed"
    if sense.count:
        facts = f"{sense.share:.0%} of the vectors ({sense.count}), spread {sense.spread:.2f}"
    near = ", ".join(f"{item.word} {item.distance:.2f}" for item in sense.nearest)
    return [
        f"  sense {sense.number}: {facts}",
        *(f"      {snippet(context)}" for context in sense.contexts),
        f"      near: {near}",
    ]


def snippet(context: Context, width: int = WIDTH) -> str:
    """Return `left »token« right` on one line, with at most `width` characters per side.

    Each side is cut at whole words. The left side is padded, so that the tokens of several
    snippets line up. A token of white space is shown as »↵«.
    """
    left = re.sub(r"\s", " ", context.left)
    token = re.sub(r"\s", " ", context.token)
    right = re.sub(r"\s", " ", context.right)
    if token.startswith(" "):
        left += " "  # a space that is part of the token is easier to read before the mark
    if len(left) > width:
        left = left[-width:].partition(" ")[2] or left[-width:]
    if len(right) > width:
        right = right[:width].rpartition(" ")[0] or right[:width]
    return f"{left:>{width}}»{token.strip() or '↵'}«{right}"
