"""The results of `dskd senses eval`: the fields are the keys of the JSON output, in this order."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dskd_ds.senses.intrinsic.separation import Separation


@dataclass(frozen=True)
class DictionaryFacts:
    """What distinguishes a dictionary from the others in the same table."""

    folder: str
    layer: int
    num_rows: int
    num_tokens: int
    num_vectors: int
    settings: dict[str, Any]
    """The settings that the dictionary was built with, as in its manifest."""


@dataclass(frozen=True)
class StateArea:
    """Word in context by the cosine of the teacher's states."""

    layer: int
    position: str
    auc: float
    error: float
    """Standard error of `auc`."""


@dataclass(frozen=True)
class SenseArea:
    """Word in context by the senses of a dictionary."""

    layer: int
    position: str
    candidates: str
    score: str
    auc: float
    error: float
    """Standard error of `auc`."""


@dataclass(frozen=True)
class ContextResult:
    """Word in context. Only values over the same pairs can be compared."""

    num_pairs: int
    """Held-out pairs, which are the ones that are scored."""
    num_lemmas: int
    num_tuning_pairs: int
    all: list[StateArea]
    """Over all held-out pairs."""
    num_common_pairs: int
    """Held-out pairs whose word has senses in every dictionary."""
    common: list[StateArea]
    """Over the common pairs."""
    senses: dict[str, list[SenseArea]]
    """For each dictionary, over the common pairs."""


@dataclass(frozen=True)
class Correlation:
    """Agreement with the ratings of people."""

    spearman: float
    num_pairs: int
    """Pairs of which both words could be looked up."""


@dataclass(frozen=True)
class StateCorrelation:
    """Agreement of the cosine of states at a layer with the ratings of people."""

    layer: int
    spearman: float
    num_pairs: int


@dataclass(frozen=True)
class SimilarityResult:
    """Agreement with one list of ratings."""

    states: list[StateCorrelation]
    senses: dict[str, dict[str, Correlation]]
    """For each dictionary, for each way of comparing senses."""


@dataclass(frozen=True)
class PolysemyResult:
    """Agreement of a dictionary's number of senses with WordNet's number of meanings."""

    num_words: int
    """Words that are single tokens with senses."""
    spearman: float
    spearman_at_equal_frequency: float
    """The same among words with equally many states in the dictionary's corpus (partial rank
    correlation)."""


@dataclass(frozen=True)
class SenseEvaluation:
    """Everything that `dskd senses eval` measured; None for parts that were not asked for."""

    dictionaries: dict[str, DictionaryFacts]
    separation: dict[str, Separation] | None = None
    """For each dictionary."""
    context: ContextResult | None = None
    similarity: dict[str, SimilarityResult] | None = None
    """For each list of ratings."""
    polysemy: dict[str, PolysemyResult] | None = None
    """For each dictionary."""

    def as_json(self) -> dict[str, Any]:
        """Return the results as JSON-serializable values, without the parts that are None."""
        return {key: value for key, value in asdict(self).items() if value is not None}
