"""Tokenizers that write words in different ways, trained on a few sentences."""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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
    """Byte-level BPE: the space belongs to the word's first token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([*TEXT, *CHINESE], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def tiktoken_style() -> Any:
    """Byte-level BPE whose own regular expression splits the text; each digit is a word."""
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
    """Words with SentencePiece's mark of a space, Chinese words without it, single characters."""
    words = dict.fromkeys([f"▁{word}" for text in TEXT for word in text.split()] + ["银行", "时间"])
    characters = dict.fromkeys("".join([*TEXT, *CHINESE]).replace(" ", "") + "▁G")
    pieces = [("<unk>", 0.0)]
    pieces += [(word, -3.0) for word in words]
    pieces += [(character, -10.0) for character in characters if character not in words]
    return Tokenizer(models.Unigram(pieces, unk_id=0))


def sentencepiece() -> Any:
    """The mark of a space is put before every word, also at the start of a text."""
    tokenizer = unigram()
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def llama2_style() -> Any:
    """The mark is put before every text, so a text with a leading space gets two marks."""
    tokenizer = unigram()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def space_apart() -> Any:
    """Every space is a separate token, and the text is changed to lower case."""
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
    "sentencepiece": (sentencepiece, "the same with and without a space before it"),
    "llama-2": (llama2_style, "as at the start of a text"),
    "apart": (space_apart, "after a separate token for the space"),
}
"""Name -> how to make the tokenizer, and the rule that RunningText finds."""
