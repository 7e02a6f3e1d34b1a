"""`dskd senses lexicon`: what the lexicons of a spec contain and how many tokens they cover.

Every source gets a line, and so does the merged table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dskd_ds.errors import InputError
from dskd_ds.lexicon.merge import Merged, merge, relations_of
from dskd_ds.lexicon.relations import (
    MIN_HEAD_CHARACTERS,
    TokenRelations,
    TokenRules,
    token_relations,
)
from dskd_ds.lexicon.sources import Lexicon, read_lexicon
from dskd_ds.lexicon.table import ANTONYM, DERIVED_SUFFIX, SYNONYM, write_table
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
    """Read and merge the spec's lexicons and print the table of them. Raises InputError.

    teacher: its vocabulary is the one that is covered. output: also write the merged table to this
    file.
    """
    if not spec.senses.lexicons:
        raise InputError(
            "[senses] lexicons is empty, so there is nothing to read.\n"
            "  add a [[senses.lexicons]] with kind and path."
        )
    tokenizer = teacher.tokenizer
    vocab_size = teacher.vocab_size
    lexicon = read_lexicon(spec.senses)
    if output:
        write_table(output, lexicon.merged.table, lexicon.merged.negations)
    words = word_tokens(tokenizer)
    print(HEADER, flush=True)
    for line in _lines(lexicon):
        related = token_relations(
            relations_of(line.merged.table),
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            rules=TokenRules.of(spec.senses),
        )
        # Flushed line by line, because a large source takes long.
        print(_format_line(line, coverage(words, related)), flush=True)
    # The last line was that of the merged table.
    _print_legend(spec, lexicon, num_spans=len(related.spans))
    senses = spec.senses
    print(related.edges.describe(senses.min_span_tokens, senses.max_span_tokens))
    _print_vocabulary(tokenizer, num_words=len(words))
    if counts := lexicon.morpholex_counts:
        print(f"MorphoLEX: {counts.num_lines:,} lines, {counts.num_malformed:,} malformed.")
    if output:
        print(f'written to {output}: use it in a spec with [[senses.lexicons]] kind = "table".')


def _print_legend(spec: RunSpec, lexicon: Lexicon, num_spans: int) -> None:
    """Print how many negations and spans the merged table has."""
    print(
        f"\n{len(lexicon.merged.negations):,} words with a negating affix flip polarity; the merged"
        f" relations use {num_spans:,} spans of up to {spec.senses.max_span_tokens} tokens."
    )


def _print_vocabulary(tokenizer: Any, num_words: int) -> None:
    """Print how the tokenizer writes words, and what the shares in the last columns are of."""
    print(
        f"vocabulary: {len(tokenizer):,} tokens, a word is written"
        f" {RunningText(tokenizer).spacing_rule()}; {num_words:,} look like words (letters only,"
        f" {MIN_HEAD_CHARACTERS} or more).\n"
        "`tokens` is the share of these that has relations, `syn.` synonyms, `ant.` antonyms."
    )


@dataclass(frozen=True)
class _Line:
    """One line of the printed table, without its coverage."""

    name: str
    merged: Merged
    num_malformed: int
    """Malformed lines of the files."""
    num_unusable: int
    """Words that were left out."""


def _lines(lexicon: Lexicon) -> Iterator[_Line]:
    """Yield a line for every source by itself, then one for all sources together."""
    is_only_source = len(lexicon.sources) == 1
    for source in lexicon.sources:
        merged = (
            lexicon.merged if is_only_source else merge([source], lexicon.morpholex, lexicon.rules)
        )
        yield _Line(source.name, merged, source.line_counts.num_malformed, source.num_unusable)
    yield _Line(
        name="merged",
        merged=lexicon.merged,
        num_malformed=sum(source.line_counts.num_malformed for source in lexicon.sources),
        num_unusable=sum(source.num_unusable for source in lexicon.sources),
    )


def _format_line(line: _Line, covered: Coverage) -> str:
    """Return the columns of one line as text."""
    table = line.merged.table
    both_columns = [*table["word"].chunks, *table["other"].chunks]
    # The sum over no rows is null.
    num_flipped = pc.sum(pc.match_substring(table["source"], DERIVED_SUFFIX)).as_py() or 0
    counts = (
        len(table),
        len(pc.unique(pa.chunked_array(both_columns, pa.string()))),
        _num_pairs(table, SYNONYM),
        _num_pairs(table, ANTONYM),
        line.merged.num_conflicts,
        num_flipped,
        line.num_malformed,
        line.num_unusable,
    )
    shares = (covered.either, covered.synonyms, covered.antonyms)
    count_columns = "".join(f"{count:>11,}" for count in counts)
    share_columns = "".join(f"{share:>11.1%}" for share in shares)
    return f"{line.name[:29]:<30}{count_columns}{share_columns}"


def _num_pairs(table: pa.Table, relation: str) -> int:
    """Return the number of distinct pairs with a relation, over all languages and meanings."""
    rows = table.filter(pc.equal(table["relation"], relation))
    return len(rows.group_by(["word", "other"]).aggregate([]))


@dataclass(frozen=True)
class Coverage:
    """The shares (0 to 1) of a vocabulary's words that have relations."""

    either: float
    """With synonyms or antonyms."""
    synonyms: float
    antonyms: float


def coverage(words: set[int], related: TokenRelations) -> Coverage:
    """Return how many of the tokens in `words` have relations."""
    with_synonyms = words & related.synonyms.keys()
    with_antonyms = words & related.antonyms.keys()
    num_words = max(1, len(words))
    return Coverage(
        either=len(with_synonyms | with_antonyms) / num_words,
        synonyms=len(with_synonyms) / num_words,
        antonyms=len(with_antonyms) / num_words,
    )


def word_tokens(tokenizer: Any) -> set[int]:
    """Return the tokens that look like words.

    Such a token has only letters, is long enough for a head word, and is what its text is encoded
    to inside a text. Parts of longer words (` inter`) also look like words, so a coverage of 1 is
    out of reach.
    """
    encoder = RunningText(tokenizer)
    ids = list(range(len(tokenizer)))
    candidates: dict[int, str] = {}
    for token, text in zip(ids, encoder.decode_tokens(ids), strict=True):
        word = text.strip()
        is_long_enough = len(word) >= MIN_HEAD_CHARACTERS or is_unspaced(word)
        if word.isalpha() and is_long_enough:
            candidates[token] = word
    encoded = encoder.encode_words(list(candidates.values()))
    return {
        token for token, token_ids in zip(candidates, encoded, strict=True) if token_ids == (token,)
    }
