"""`dskd senses lexicon`: what the lexicons of a spec hold, source by source and merged, and how much of a vocabulary they reach."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dskd_ds.errors import InputError
from dskd_ds.lexicon.merge import relations_of, settle_conflicts
from dskd_ds.lexicon.sources import Lexicon, read_lexicon
from dskd_ds.lexicon.table import ANTONYM, DERIVED, SYNONYM, write_table
from dskd_ds.sense.relations import MIN_HEAD_CHARACTERS, TokenRelations, token_relations
from dskd_ds.sense.words import RunningText, is_unspaced
from dskd_ds.spec import RunSpec
from dskd_ds.teacher.checkpoint import load_tokenizer, read_config, resolve_model

HEADER = f"{'source':<34}{'rows':>11}{'words':>10}{'synonyms':>11}{'antonyms':>10}{'conflicts':>11}{'malformed':>11}{'unusable':>10}"


def show_lexicon(spec: RunSpec, output: Path | None) -> None:
    """Read, merge, print; write the merged table if `output` is given. Raises InputError."""
    if not spec.senses.lexicons:
        raise InputError('[senses] lexicons = [], so there is nothing to read.\n  add a [[senses.lexicons]] with kind and path.')
    lexicon = read_lexicon(spec.senses)
    if output:
        write_table(output, lexicon.merged.table, lexicon.merged.negations)
    print("\n".join(_counts(lexicon)))
    model = resolve_model(spec.teacher.model)
    tokenizer = load_tokenizer(model)
    related = token_relations(relations_of(lexicon.merged.table), tokenizer, int(read_config(model).get_text_config().vocab_size),
                              spec.senses.max_span_tokens, min_span_tokens=2 if spec.senses.paper_exact else 1)
    reach = coverage(tokenizer, related)
    print(f"\nvocabulary: {len(tokenizer):,} tokens; a word is written {RunningText(tokenizer).rule()};"
          f" {reach.num_words:,} tokens look like words (letters only, {MIN_HEAD_CHARACTERS} or more).")
    print(f"of these have synonyms {reach.synonyms:.1%}, antonyms {reach.antonyms:.1%}, either {reach.either:.1%};"
          f" their relations use {len(related.spans):,} spans of 2 to {spec.senses.max_span_tokens} tokens.")
    if output:
        print(f"\nwritten to {output}: name it in a spec with [[senses.lexicons]] kind = \"table\".")


def _counts(lexicon: Lexicon) -> list[str]:
    lines = [HEADER]
    for source in lexicon.sources:
        table = source.table()
        _, num_conflicts = settle_conflicts(table)
        lines.append(_line(source.name, table, num_conflicts, source.damage.num_malformed, source.num_unusable))
    merged = lexicon.merged
    lines.append(_line("merged", merged.table, merged.num_conflicts, sum(s.damage.num_malformed for s in lexicon.sources),
                       sum(s.num_unusable for s in lexicon.sources)))
    derived = pc.sum(pc.match_substring(merged.table["source"], DERIVED)).as_py() or 0
    lines.append(f"\nnegations: {len(merged.negations):,} words with a negating affix flip polarity;"
                 f" {derived:,} merged rows follow from them.")
    if damage := lexicon.morpholex_damage:
        lines.append(f"MorphoLEX: {damage.num_lines:,} lines, {damage.num_malformed:,} malformed.")
    return lines


def _line(name: str, table: pa.Table, num_conflicts: int, num_malformed: int, num_unusable: int) -> str:
    words = len(pc.unique(pa.chunked_array([*table["word"].chunks, *table["other"].chunks], pa.string())))
    pairs = {relation: len(table.filter(pc.equal(table["relation"], relation)).group_by(["word", "other"]).aggregate([]))
             for relation in (SYNONYM, ANTONYM)}
    return (f"{name[:33]:<34}{len(table):>11,}{words:>10,}{pairs[SYNONYM]:>11,}{pairs[ANTONYM]:>10,}{num_conflicts:>11,}"
            f"{num_malformed:>11,}{num_unusable:>10,}")


@dataclass(frozen=True)
class Coverage:
    """How many of a vocabulary's tokens look like whole words, and which share of them has relations (0 to 1)."""

    num_words: int
    synonyms: float
    antonyms: float
    either: float


def coverage(tokenizer: Any, related: TokenRelations) -> Coverage:
    """A token looks like a word if its text is letters only, long enough for a head, and is encoded inside of a text as that token.

    Parts of longer words (` inter`) look so too, so 1 is out of reach.
    """
    encoder = RunningText(tokenizer)
    ids = list(range(len(tokenizer)))
    texts = {token: text.strip() for token, text in zip(ids, encoder.texts(ids), strict=True)}
    fitting = {token: text for token, text in texts.items()
               if text.isalpha() and (len(text) >= MIN_HEAD_CHARACTERS or is_unspaced(text))}
    words = {token for token, pieces in zip(fitting, encoder.tokens(list(fitting.values())), strict=True) if pieces == (token,)}
    number = max(1, len(words))
    return Coverage(len(words), len(words & related.synonyms.keys()) / number, len(words & related.antonyms.keys()) / number,
                    len(words & (related.synonyms.keys() | related.antonyms.keys())) / number)
