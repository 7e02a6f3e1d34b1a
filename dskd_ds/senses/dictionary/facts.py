"""What the manifest of a dictionary records, and the name of its main file. Loads no torch."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

SENSES_FILE = "senses.safetensors"
"""Name of the file with all tensors of a dictionary."""


class HistoryEntry(TypedDict):
    """One corpus whose states are in a dictionary."""

    corpus: str
    """Fingerprint of its blocks (identity.corpus_digest)."""
    sources: list[str]
    """Paths of its `[data] train`."""
    tokens: int
    """Tokens that the teacher read, at most."""
    vectors: int
    """Vectors of this corpus that are in the senses."""
    seed: int


class CorpusKey(TypedDict):
    """What the sample of one text of [[senses.corpus]] depends on."""

    corpus: str
    """Fingerprint of its blocks (identity.corpus_digest)."""
    collect_tokens: int
    vectors_per_token: int


class DictionaryKey(TypedDict):
    """Everything that a dictionary depends on: two builds with equal keys write equal files."""

    teacher: str
    """Fingerprint of the teacher's weights."""
    tokenizer: str
    """Fingerprint of the vocabulary."""
    corpus: str
    """Fingerprint of the corpus's blocks."""
    block_tokens: int
    seed: int
    lexicon: str
    """Fingerprint of all lexicon files."""
    settings: dict[str, Any]
    """The fields of [senses] that decide the content (identity.BUILD_SETTINGS)."""
    dtype: str
    """Number format that the teacher computed in: `auto` depends on the machine."""
    compiled: bool
    """Whether the teacher's layers were compiled: they then round differently."""
    sinks_left_out: NotRequired[bool]
    """Whether no sense is made from attention sinks (identity.leaves_out_sinks)."""
    corpora: NotRequired[list[CorpusKey]]
    """The texts of [[senses.corpus]]; `corpus` is then the fingerprint of this list."""
    refreshes: NotRequired[str]
    """SHA-256 of the manifest of the dictionary that is refreshed; only the work folders use it."""


class Facts(TypedDict, total=False):
    """The facts in a dictionary's manifest."""

    teacher: str
    tokenizer: str
    corpus: str
    block_tokens: int
    seed: int
    lexicon: str
    settings: dict[str, Any]
    dtype: str
    compiled: bool
    """The fields from `teacher` to `compiled` are those of DictionaryKey. Dictionaries of earlier
    versions lack the last two: what their teacher computed in is not known."""
    word_rules: dict[str, Any]
    """The fields of [senses] that decide which words are related (identity.word_rules). Not part of
    the key, which has the digest of the lexicons. Dictionaries of earlier versions lack it."""
    sinks_left_out: bool
    """As in DictionaryKey."""
    corpora: list[CorpusKey]
    """As in DictionaryKey: only with [[senses.corpus]]."""
    history: list[HistoryEntry]
    """The corpus of the build, then the corpus of each refresh."""
    vocab_size: int
    """Number of token ids; owners from here on are spans."""
    layer: int
    """The teacher's layer whose states were clustered; -1 is the input of its head."""
    num_vectors: int
    """Vectors that all senses of tokens were made from."""
    made_by: str
    format: int
    """Version of the file format."""
    num_rows: int
    num_spans: int
    """Spans with senses."""
    num_tokens: int
    """Tokens with senses."""
    num_related_tokens: int
    """Tokens with synonyms or antonyms."""
    median_antonym_distance: float | None
    """Median squared distance per dimension between antonyms' senses; None without antonyms."""


def with_present_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Return recorded settings of [senses] under their present names.

    Earlier versions recorded `paper_exact`, of which only the minimum length of related words
    decides what a dictionary holds. They always dropped related words without senses.
    """
    present = {name: value for name, value in settings.items() if name != "paper_exact"}
    if "paper_exact" in settings:
        present["min_span_tokens"] = 2 if settings["paper_exact"] else 1
    present.setdefault("relations_without_senses", "drop")
    return present
