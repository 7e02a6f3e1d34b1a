"""[senses]: how the sense dictionary is built, and how candidates are picked from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import Fraction, NonNegativeInt, Part, PositiveInt


class LexiconSpec(Part):
    """One source of word relations."""

    kind: Literal["wordnet"]
    """Its format."""
    path: str
    """Its file or folder: for `wordnet` the folder of database files (`data.noun`, ...)."""
    language: str = "en"
    """ISO 639 code of its words."""


class SensesSpec(Part):
    """The sense dictionary: how it is built, and how candidates are picked from it."""

    dictionary: str
    """Folder of the dictionary; `dskd senses build` writes it, training reads it."""
    local_dir: str | None = None
    """Folder on each node (`$TMPDIR`, `/dev/shm`) that dictionary and index are copied to, once a node, before a run reads them there;
    not given: they are read where they are."""
    lexicons: tuple[LexiconSpec, ...] = ()
    """Who is related to whom. Several are merged."""
    collect_tokens: PositiveInt = 1_000_000
    """How many corpus tokens the teacher reads to collect vectors."""
    attribution: Literal["argmax", "next"] = "argmax"
    """Whose a position's vector is: the token the teacher finds likeliest (paper) or the one that follows in the text."""
    vectors_per_token: PositiveInt = 2000
    """A uniform sample of at most this many vectors is kept for each token (paper: 2000)."""
    num_senses: PositiveInt = 10
    """k of k-means for each token (paper: 10); a token with no more vectors than this keeps them as they are."""
    max_span_tokens: PositiveInt = 3
    """A related word may be this many tokens long (paper: 3)."""
    index_dims: PositiveInt = 256
    """Dimensions that PCA keeps for the HNSW index: 4 bytes each for every sense. Of SmolLM2's 576, 64 lose a fiftieth of the true 10
    nearest however hard one searches; 256 lose none (at 150 candidates)."""
    index_links: Annotated[int, Field(ge=2, le=200)] = 16
    """HNSW's M: links of a node."""
    index_build_effort: PositiveInt = 200
    """HNSW's ef_construction."""
    index_search_effort: PositiveInt = 150
    """HNSW's ef at search time; also how many candidates are fetched for exact re-ranking. The build says what recall it gives."""
    candidates: Literal["lexical", "neighbours", "hybrid"] = "hybrid"
    """Where candidates come from: word relations (paper), the index, or both (METHOD.md, "Candidates")."""
    kappa: PositiveInt = 5
    """How many nearest senses form S+ and S- (paper: 5)."""
    num_related_words: PositiveInt = 25
    """At most this many synonyms, and antonyms, are drawn at a position (paper: 25)."""
    num_neighbours: PositiveInt = 64
    """Size of R_i: the nearest senses of the whole dictionary."""
    min_teacher_probability: Fraction = 0.05
    """A neighbour may pull only if the teacher gives its token at least this probability."""
    min_positions: NonNegativeInt = 25
    """Sense positions a block: at least this many of those with relations (paper: 25) ..."""
    position_fraction: Fraction = 0.4
    """... or this share of them, if that is more (paper: 0.4); and as many again that only pull."""
    paper_exact: bool = False
    """Repeat the authors' scripts to the letter: only relations of 2..m tokens, no pull without synonyms, own senses in S-."""
