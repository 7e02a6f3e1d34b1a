"""`dskd senses lexicon`: what the lexicons of a spec hold, source by source and merged, and how much of a vocabulary they reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dskd_ds.errors import InputError
from dskd_ds.lexicon.merge import Merged, merge, relations_of
from dskd_ds.lexicon.relations import MIN_HEAD_CHARACTERS, TokenRelations, token_relations
from dskd_ds.lexicon.sources import Lexicon, read_lexicon
from dskd_ds.lexicon.table import ANTONYM, DERIVED, SYNONYM, write_table
from dskd_ds.lexicon.words import RunningText, is_unspaced
from dskd_ds.models.named import NamedModel
from dskd_ds.spec import RunSpec

COLUMNS = (
    "rows",
    "words",
    "synonyms",
    "antonyms",
    "conflicts",
    "flipped",
    "malformed",
    "unusable",
    "tokens",
    "syn.",
    "ant.",
)
HEADER = f"{'source':<30}" + "".join(f"{name:>11}" for name in COLUMNS)


def show_lexicon(spec: RunSpec, teacher: NamedModel, output: Path | None) -> None:
    """Read, merge, print; write the merged table if `output` is given. Raises InputError."""
    if not spec.senses.lexicons:
        raise InputError(
            "[senses] lexicons = [], so there is nothing to read.\n  add a [[senses.lexicons]] with kind and path."
        )
    tokenizer = teacher.tokenizer
    vocab_size = teacher.vocab_size
    lexicon = read_lexicon(spec.senses)
    if output:
        write_table(output, lexicon.merged.table, lexicon.merged.negations)
    words = word_tokens(tokenizer)
    print(HEADER, flush=True)
    for name, merged, num_malformed, num_unusable in _parts(lexicon):
        related = token_relations(
            relations_of(merged.table),
            tokenizer,
            vocab_size,
            spec.senses.max_span_tokens,
            min_span_tokens=2 if spec.senses.paper_exact else 1,
        )
        print(
            _line(name, merged, num_malformed, num_unusable, coverage(words, related)), flush=True
        )
    print(
        f"\n{len(lexicon.merged.negations):,} words with a negating affix flip polarity; the merged relations use {len(related.spans):,}"
        f" spans of up to {spec.senses.max_span_tokens} tokens."
    )
    print(
        f"vocabulary: {len(tokenizer):,} tokens, a word is written {RunningText(tokenizer).rule()};"
        f" {len(words):,} look like words (letters only, {MIN_HEAD_CHARACTERS} or more).\n"
        "`tokens` is the share of these that has relations, `syn.` synonyms, `ant.` antonyms."
    )
    if damage := lexicon.morpholex_damage:
        print(f"MorphoLEX: {damage.num_lines:,} lines, {damage.num_malformed:,} malformed.")
    if output:
        print(f'written to {output}: name it in a spec with [[senses.lexicons]] kind = "table".')


def _parts(lexicon: Lexicon) -> Iterator[tuple[str, Merged, int, int]]:
    """(name, merged table, malformed lines, unusable words) of every source alone, then of all together."""
    for source in lexicon.sources:
        alone = lexicon.merged if len(lexicon.sources) == 1 else merge([source], lexicon.morpholex)
        yield source.name, alone, source.damage.num_malformed, source.num_unusable
    yield (
        "merged",
        lexicon.merged,
        sum(source.damage.num_malformed for source in lexicon.sources),
        sum(source.num_unusable for source in lexicon.sources),
    )


def _line(name: str, merged: Merged, num_malformed: int, num_unusable: int, reach: Coverage) -> str:
    table = merged.table
    words = len(
        pc.unique(pa.chunked_array([*table["word"].chunks, *table["other"].chunks], pa.string()))
    )
    synonyms, antonyms = (
        len(
            table.filter(pc.equal(table["relation"], relation))
            .group_by(["word", "other"])
            .aggregate([])
        )
        for relation in (SYNONYM, ANTONYM)
    )
    flipped = pc.sum(pc.match_substring(table["source"], DERIVED)).as_py() or 0
    counts = (
        len(table),
        words,
        synonyms,
        antonyms,
        merged.num_conflicts,
        flipped,
        num_malformed,
        num_unusable,
    )
    return (
        f"{name[:29]:<30}"
        + "".join(f"{count:>11,}" for count in counts)
        + "".join(f"{share:>11.1%}" for share in (reach.either, reach.synonyms, reach.antonyms))
    )


@dataclass(frozen=True)
class Coverage:
    """Which share of a vocabulary's words has relations (0 to 1)."""

    either: float
    synonyms: float
    antonyms: float


def coverage(words: set[int], related: TokenRelations) -> Coverage:
    """words: the tokens that count."""
    synonyms, antonyms = words & related.synonyms.keys(), words & related.antonyms.keys()
    either, synonyms_share, antonyms_share = (
        len(part) / max(1, len(words)) for part in (synonyms | antonyms, synonyms, antonyms)
    )
    return Coverage(either, synonyms_share, antonyms_share)


def word_tokens(tokenizer: Any) -> set[int]:
    """The tokens that look like words: letters only, long enough for a head, and encoded inside of a text as that token.

    Parts of longer words (` inter`) look so too, so a coverage of 1 is out of reach.
    """
    encoder = RunningText(tokenizer)
    ids = list(range(len(tokenizer)))
    texts = {token: text.strip() for token, text in zip(ids, encoder.texts(ids), strict=True)}
    fitting = {
        token: text
        for token, text in texts.items()
        if text.isalpha() and (len(text) >= MIN_HEAD_CHARACTERS or is_unspaced(text))
    }
    return {
        token
        for token, pieces in zip(fitting, encoder.tokens(list(fitting.values())), strict=True)
        if pieces == (token,)
    }
