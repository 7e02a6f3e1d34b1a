"""How tokenizers write words: five kinds that are made here, and SmolLM2's own where it has been fetched."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dskd_ds.lexicon.merge import Relations
from dskd_ds.lexicon.relations import token_relations
from dskd_ds.lexicon.report import coverage, word_tokens
from dskd_ds.lexicon.words import RunningText, capitalised, is_unspaced
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.spec import dskd_home
from tests.conftest import TinyWorld

HOME = dskd_home()
"""Before any test names a home of its own."""

TEXT = [
    "the happy house is a glad house at work",
    "people work in time with water",
    "Happy people are glad and sad in a big house",
    "so a large house is big",
    "the Happy house",
    "a Sad house",
    "water and time and work and people",
] * 4
CHINESE = ["我去银行、他在水", "银行。水。时间、银行", "他有时间。银行、时间"] * 4


def byte_level() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([*TEXT, *CHINESE], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def tiktoken_style() -> Any:
    """Words are cut out by a regular expression of the tokenizer's own, and digits go one by one."""
    tokenizer = Tokenizer(models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def unigram() -> Tokenizer:
    """Whole words with SentencePiece's mark of a space, Chinese words without, and single characters for the rest."""
    words = dict.fromkeys([f"▁{word}" for text in TEXT for word in text.split()] + ["银行", "时间"])
    characters = dict.fromkeys("".join([*TEXT, *CHINESE]).replace(" ", "") + "▁G")
    pieces = [
        ("<unk>", 0.0),
        *((word, -3.0) for word in words),
        *((c, -10.0) for c in characters if c not in words),
    ]
    return Tokenizer(models.Unigram(pieces, unk_id=0))


def sentencepiece() -> Any:
    tokenizer = unigram()
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def llama2_style() -> Any:
    """The mark is put before the text whatever it starts with, so a leading space would give two."""
    tokenizer = unigram()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def space_apart() -> Any:
    """Every space is a token of its own, and capitals are dropped."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.train_from_iterator(
        TEXT, trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


KINDS = {
    "byte-level": (byte_level, "with its leading space"),
    "tiktoken": (tiktoken_style, "with its leading space"),
    "sentencepiece": (sentencepiece, "alike with and without a space before it"),
    "llama-2": (llama2_style, "as at the start of a text"),
    "apart": (space_apart, "a space is a token of its own"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_has_the_tokens_that_a_text_has(kind: str) -> None:
    """Against the slow way: encode a whole sentence and look which tokens lie under the word."""
    make, rule = KINDS[kind]
    tokenizer = make()
    encoder = RunningText(tokenizer)
    assert encoder.rule() == rule
    for sentence in ("the happy house is big", "people work in time", "Happy people are sad"):
        encoded = tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        for word in sentence.split()[1:]:
            start = sentence.index(f" {word}") + 1
            under = tuple(
                i
                for i, (a, b) in zip(ids, offsets, strict=True)
                if a < start + len(word) and b > start
            )
            assert encoder.tokens([word])[0] == under, word


@pytest.mark.parametrize("kind", KINDS)
def test_both_forms_of_a_word_are_heads(kind: str) -> None:
    tokenizer = KINDS[kind][0]()
    relations = Relations()
    relations.add("happy", "glad", opposite=False)
    relations.add("happy", "sad", opposite=True)
    relations.add("house", "work time", opposite=False)
    related = token_relations(relations, tokenizer, len(tokenizer), 4)
    tokens = dict(zip(FORMS, RunningText(tokenizer).tokens(FORMS), strict=True))
    single = {word: ids[0] for word, ids in tokens.items() if len(ids) == 1}
    assert {"happy", "glad", "house"} <= single.keys()
    assert related.synonyms[single["happy"]] == [single["glad"]]
    if "Happy" in single and single["Happy"] != single["happy"]:
        assert related.antonyms[single["Happy"]] == [
            single.get("Sad", single.get("sad"))
        ]  # a capitalised form where it is one token
        assert related.synonyms[single["Happy"]] == [single.get("Glad", single["glad"])]
        assert related.words[single["Happy"]] == "Happy"
    span = related.synonyms[single["house"]][0] - len(tokenizer)
    assert related.span_texts[span] == "work time"
    assert tokenizer.decode(list(related.spans[span])).strip() == "work time"


FORMS = ["happy", "Happy", "glad", "Glad", "sad", "Sad", "house"]


@pytest.mark.parametrize("make", [byte_level, sentencepiece, llama2_style])
def test_scripts_without_spaces(make: Any) -> None:
    tokenizer = make()
    tokens = RunningText(tokenizer).tokens(["银行", "时间", "happy"])
    assert all(len(ids) == 1 for ids in tokens)
    assert [tokenizer.decode(list(ids)).strip() for ids in tokens] == ["银行", "时间", "happy"]
    relations = Relations()
    relations.add("银行", "时间", opposite=False)
    assert token_relations(relations, tokenizer, len(tokenizer), 3).synonyms[tokens[0][0]] == [
        tokens[1][0]
    ]
    assert [is_unspaced(word) for word in ("银行", "ひらがな", "ไทย", "été", "русский", "")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_capitals() -> None:
    assert [capitalised(word) for word in ("happy", "été", "hot dog", "ﬁn", "银行", "")] == [
        "Happy",
        "Été",
        "Hot dog",
        "ﬁn",
        "银行",
        "",
    ]


def test_coverage_counts_whole_words_only() -> None:
    tokenizer = byte_level()
    relations = Relations()
    relations.add("happy", "glad", opposite=False)
    relations.add("happy", "sad", opposite=True)
    related = token_relations(relations, tokenizer, len(tokenizer), 3)
    ids = {word: token for token, word in related.words.items()}
    words = word_tokens(tokenizer)
    texts = {tokenizer.decode([token]) for token in words}
    assert {" happy", " glad", " house", " Happy"} <= texts
    assert all(
        text.startswith(" ") and text[1:].isalpha() and len(text) > 3
        for text in texts
        if text.isascii()
    )
    reach = coverage(words, related)
    assert ids.keys() >= {"happy", "glad"}
    assert reach.synonyms == pytest.approx(len(related.synonyms.keys() & words) / len(words))
    assert 0 < reach.antonyms <= reach.either < 1


def test_smollm2() -> None:
    folders = sorted((HOME / "models").glob("SmolLM2*/config.json"))
    if not folders:
        pytest.skip("SmolLM2 has not been fetched (make quickstart)")
    tokenizer = load_tokenizer(str(folders[0].parent))
    encoder = RunningText(tokenizer)
    assert encoder.rule() == "with its leading space"
    words = ["happy", "Happy", "unhappy", "hot dog", "été"]
    assert encoder.tokens(words) == [tuple(tokenizer(f" {word}")["input_ids"]) for word in words]
    assert encoder.texts(list(encoder.tokens(["happy"])[0])) == [" happy"]


def test_a_long_list_of_relations_is_thinned_evenly(
    tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dskd_ds.lexicon.relations.MAX_RELATED", 4)
    tokenizer = load_tokenizer(str(tiny.folder / "teacher"))
    relations = Relations()
    for other in (
        "bank",
        "city",
        "early",
        "home",
        "late",
        "money",
        "open",
        "river",
        "town",
        "water",
    ):
        relations.add("big", other, opposite=False)
    related = token_relations(relations, tokenizer, 500, max_span_tokens=1)
    kept = [
        tokenizer.decode([token]).strip()
        for token in related.synonyms[tokenizer(" big")["input_ids"][0]]
    ]
    assert kept == ["bank", "home", "open", "water"]
