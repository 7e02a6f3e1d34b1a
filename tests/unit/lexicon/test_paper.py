"""The paper's way with lexicons, against a slow loop written from its description.

Sense-level Wiktionary lists, two files of pairs, union, MorphoLEX, negated words replaced, no rule
for conflicts, no limit; heads of one token, related words of two or three.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dskd_ds.lexicon.merge import relations_of
from dskd_ds.lexicon.relations import TokenRules, token_relations
from dskd_ds.lexicon.sources import read_lexicon
from dskd_ds.spec.senses import SensesSpec

PREFIXES = ["un", "dis", "non", "in", "im", "il", "ir", "anti", "de", "a", "an"]
SUFFIXES = ["less", "free"]
SEGMENTED = {
    "unhappy": [("<", "un"), ("(", "happy")],
    "Unlit": [("<", "un"), ("(", "lit")],
    "unhappiness": [("<", "un"), ("(", "happy"), (">", "ness")],
    "fearless": [("(", "fear"), (">", "less")],
    "unfearless": [("<", "un"), ("(", "fear"), (">", "less")],
    "sugarfree": [("(", "sugar"), (">", "free")],
    "atypical": [("<", "a"), ("(", "typic"), (">", "al")],
    "typical": [("(", "typic"), (">", "al")],
    "inside": [("<", "in"), ("(", "side")],
    "happy": [("(", "happy")],
    "carefree": [("(", "care"), ("(", "free")],
}
WORDS = [
    *SEGMENTED,
    *("Happy", "glad", "sad", "lit", "fear", "sugar", "side", "Unhappy", "big", "so", "house"),
    *("big house", "happy house", "sad side", "glad#Etymology 1", " sugar ", ";", "#", "3.14"),
]
PAIRS = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from(WORDS), st.booleans()), max_size=30
)


def make_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer that splits these words into one to many tokens."""
    common = ["happy", "glad", "sad", "lit", "fear", "sugar", "side", "big", "house", "Happy"]
    text = [f" {word}" for word in common] * 8 + [" un un un less less free ness typ ic al"] * 8
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=310, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*text, *(["unhappy fearless happy"] * 8)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZER = make_tokenizer()


def encode(word: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(f" {word}", add_special_tokens=False)["input_ids"])


def slow_token_lists(
    wiktionary: list[tuple[str, str, bool]], pairs: list[tuple[str, str, bool]], sign: int
) -> dict[int, set[tuple[int, ...]]]:
    """Return head token -> tokens of its synonyms (sign 1) or antonyms (sign -1)."""
    stated: set[tuple[str, str, int]] = set()
    for head, tail, is_antonym in wiktionary:
        tail = tail[: tail.index("#")] if "#" in tail else tail
        tail = tail.strip()
        if tail not in ("", ";"):
            stated |= {(head, tail, -1 if is_antonym else 1), (tail, head, -1 if is_antonym else 1)}
    for head, tail, is_antonym in pairs:
        stated |= {(head, tail, -1 if is_antonym else 1), (tail, head, -1 if is_antonym else 1)}
    segmented = {word.lower(): pieces for word, pieces in SEGMENTED.items()}
    known = set(segmented) | {word.lower() for head, tail, _ in stated for word in (head, tail)}

    def sign_and_base(word: str) -> tuple[int, str]:
        left, number = "", 0
        for mark, piece in segmented.get(word.lower(), []):
            negates = (mark == "<" and piece in PREFIXES) or (mark == ">" and piece in SUFFIXES)
            number, left = (number + 1, left) if negates else (number, left + piece)
        return (-1, left) if number % 2 and left in known else (1, word)

    found: dict[int, set[tuple[int, ...]]] = defaultdict(set)
    for head, tail, relation in stated:
        head_sign, head_base = sign_and_base(head)
        tail_sign, tail_base = sign_and_base(tail)
        if relation * head_sign * tail_sign != sign or head_base == tail_base:
            continue
        head_tokens, tail_tokens = encode(head_base), encode(tail_base)
        if len(head_tokens) == 1 and len(head_base) > 2 and len(tail_tokens) in (2, 3):
            found[head_tokens[0]].add(tail_tokens)
    return dict(found)


def write_workbook(path: Path) -> Path:
    """Write a workbook laid out as MorphoLEX's: a presentation, data sheets, lists of affixes."""
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.title = "Presentation"
    book.active.append(["MorphoLEX"])
    sheets = {name: book.create_sheet(name) for name in ("0-1-0", "1-1-0", "1-1-1")}
    for sheet in sheets.values():
        sheet.append(["ELP_ItemID", "Word", "POS", "Nmorph", "PRS_signature", "MorphoLexSegm"])
    closing = {"<": "<", "(": ")", ">": ">"}
    for number, (word, pieces) in enumerate(SEGMENTED.items()):
        text = "".join(f"{mark}{piece}{closing[mark]}" for mark, piece in pieces)
        names = list(sheets)
        sheet = sheets[names[number % len(names)]]
        sheet.append([number, word, "JJ", len(pieces), "0-1-0", f"{{{text}}}"])
    book.create_sheet("All prefixes").append(["morpheme", "family_size"])
    book.save(path)
    return path


@pytest.fixture(scope="module")
def workbook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workbook(tmp_path_factory.mktemp("morpholex") / "MorphoLEX_en.xlsx")


def write_sources(
    folder: Path, wiktionary: list[tuple[str, str, bool]], pairs: list[tuple[str, str, bool]]
) -> list[dict[str, str]]:
    """Write the sources, with lists that are not to be read, and return [[senses.lexicons]]."""
    lines = []
    for head, tail, is_antonym in [*wiktionary, ("glad", "big house", False)]:
        links = {"antonyms" if is_antonym else "synonyms": [{"word": tail}]}
        entry = {"word": head, "lang_code": "en", "pos": "adj", "senses": [links]}
        lines.append(entry | {"antonyms": [{"word": "sad side"}]})
        lines.append(entry | {"lang_code": "fr", "senses": [{"synonyms": [{"word": "sad side"}]}]})
    (folder / "en.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    for name, wanted in (("syn", False), ("ant", True)):
        rows = [f"{head} {tail}" for head, tail, is_antonym in pairs if is_antonym == wanted]
        extra = ["three words here", "lonely", "", "glad unhappy"]
        (folder / f"{name}-pairs.txt").write_text("\n".join([*rows, *extra]))
    return [
        {"kind": "wiktextract", "path": str(folder / "en.jsonl"), "lists": "senses"},
        {
            "kind": "pairs",
            "synonyms": str(folder / "syn-pairs.txt"),
            "antonyms": str(folder / "ant-pairs.txt"),
        },
    ]


def our_token_lists(
    lexicons: list[dict[str, str]], workbook: Path
) -> tuple[dict[int, set[tuple[int, ...]]], ...]:
    """Return head token -> tokens of its synonyms, and of its antonyms, as a build finds them."""
    affixes = [*(f"{prefix}-" for prefix in PREFIXES), *(f"-{suffix}" for suffix in SUFFIXES)]
    senses = SensesSpec.model_validate(
        {
            "dictionary": "-",
            "lexicons": lexicons,
            "morpholex": str(workbook),
            "spelling": "as_written",
            "negation": "replace",
            "negating_affixes": affixes,
            "conflicts": "keep",
            "max_list_length": 0,
            "min_span_tokens": 2,
        }
    )
    relations = relations_of(read_lexicon(senses).merged.table)
    related = token_relations(relations, TOKENIZER, len(TOKENIZER), TokenRules.of(senses))
    first_span = len(TOKENIZER)
    return tuple(
        {
            head: {related.spans[owner - first_span] for owner in owners}
            for head, owners in table.items()
        }
        for table in (related.synonyms, related.antonyms)
    )


def single_words(pairs: list[tuple[str, str, bool]]) -> list[tuple[str, str, bool]]:
    """Return the pairs that a file with two words per line can hold."""
    stripped = [(head.strip(), tail.strip(), is_antonym) for head, tail, is_antonym in pairs]
    return [pair for pair in stripped if " " not in pair[0] + pair[1]]


def without_markup(pairs: list[tuple[str, str, bool]]) -> list[tuple[str, str, bool]]:
    """Return the pairs whose head can be the word of an entry."""
    return [pair for pair in pairs if "#" not in pair[0] and pair[0] == pair[0].strip() != ";"]


def of_two_words(pairs: list[tuple[str, str, bool]]) -> list[tuple[str, str, bool]]:
    """Return the pairs of different words."""
    return [pair for pair in pairs if pair[0].lower() != pair[1].lower()]


@settings(max_examples=25)
@given(wiktionary=PAIRS, pairs=PAIRS)
def test_token_lists_equal_the_slow_loop(
    workbook: Path, wiktionary: list[tuple[str, str, bool]], pairs: list[tuple[str, str, bool]]
) -> None:
    # A word's relation to itself is dropped when it is read. The authors' scripts would still count
    # the word as known, which matters only to a word with no other relation.
    wiktionary, pairs = of_two_words(without_markup(wiktionary)), of_two_words(single_words(pairs))
    with tempfile.TemporaryDirectory() as folder:
        lexicons = write_sources(Path(folder), wiktionary, pairs)
        found = our_token_lists(lexicons, workbook)
    always = [("glad", "unhappy", False), ("glad", "unhappy", True)]
    for table, sign in zip(found, (1, -1), strict=True):
        entries = [*wiktionary, ("glad", "big house", False)]
        assert table == slow_token_lists(entries, [*pairs, *always], sign)


def test_the_words_have_every_length() -> None:
    """Otherwise the comparison would not see that related words of some length are left out."""
    lengths = {len(encode(word.strip())) for word in WORDS}
    assert {1, 2, 3, 4} <= lengths


def test_known_pairs(tmp_path: Path, workbook: Path) -> None:
    pairs = [
        ("happy", "unhappy", True),  # a synonym of itself, which is dropped
        ("glad", "carefree", False),  # `free` is a root here: nothing is negated
        ("sad", "typical", False),
        ("sugar", "big", False),  # makes `sugar` a word
        ("sad", "sugarfree", True),  # becomes `sugar`, a single token, which is lost
        ("big", "so", False),
        ("big", "so", True),  # a conflict stays
    ]
    synonyms, antonyms = our_token_lists(write_sources(tmp_path, [], pairs), workbook)
    (sad,), (big,), (glad,), (happy,) = map(encode, ("sad", "big", "glad", "happy"))
    assert happy not in synonyms | antonyms
    assert synonyms[sad] == {encode("typical")}
    assert sad not in antonyms
    assert synonyms[glad] == {encode("big house")}  # from Wiktionary
    assert synonyms[big] == antonyms[big] == {encode("so")}
