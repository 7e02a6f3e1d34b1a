"""[senses]: how the sense dictionary is built, and how candidates are picked from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import Fraction, NonNegativeFloat, NonNegativeInt, Part, PositiveInt


class LexiconSpec(Part):
    """One source of word relations."""

    kind: Literal["wordnet", "wiktextract", "dict2vec", "mythes", "moby", "tsv", "table"]
    """Its format: WordNet's database, Wiktextract JSONL, Dict2Vec strong pairs, a MyThes or Moby thesaurus, tab-separated text
    (word, relation, other), or a Parquet table that `dskd senses lexicon --output` wrote."""
    path: str
    """Its file; for `wordnet` the folder of database files (`data.noun`, ...), for `dict2vec` perhaps the folder of pair lists."""
    language: str = "en"
    """Code of its words' language, as Wiktionary writes it (`en`, `fr`); in a `table` each row has its own."""


class SensesSpec(Part):
    """The sense dictionary: how it is built, and how candidates are picked from it."""

    dictionary: str
    """Folder of the dictionary; `dskd senses build` writes it, training reads it."""
    local_dir: str | None = None
    """Folder on each node (`$TMPDIR`, `/dev/shm`) that dictionary and index are copied to, once a node, before a run reads them there;
    not given: they are read where they are."""
    collection_dir: str | None = None
    """Folder where the vectors that the teacher's reading gave are kept, for other dictionaries of the same text: another k or another
    clustering then costs no reading. Not given: they lie beside the dictionary, and are deleted once it is whole."""
    lexicons: tuple[LexiconSpec, ...] = ()
    """Who is related to whom. Several are merged; a pair that is both synonym and antonym stays an antonym."""
    morpholex: str | None = None
    """MorphoLEX as CSV or TSV (columns Word, MorphoLexSegm): which English words are negations. Without it a rule decides."""
    collect_tokens: PositiveInt = 1_000_000
    """How many corpus tokens the teacher reads to collect vectors."""
    attribution: Literal["argmax", "next"] = "argmax"
    """Whose a position's vector is: the token the teacher finds likeliest (paper) or the one that follows in the text."""
    hidden_layer: Annotated[int, Field(ge=-1)] = -1
    """Whose states are collected: -1 for those the teacher's head reads (training needs these); 0 for the embeddings, i for the
    output of the i-th layer (to look at and to evaluate)."""
    min_confidence: Fraction = 0.0
    """A vector is kept only if the teacher gives the token it belongs to at least this probability; 0 keeps all (paper)."""
    vectors_per_token: PositiveInt = 2000
    """A uniform sample of at most this many vectors is kept for each token (paper: 2000)."""
    clustering: Literal["fixed", "adaptive"] = "adaptive"
    """`fixed`: `num_senses` for each token (paper). `adaptive`: each token's own number, by `sense_cost`."""
    num_senses: PositiveInt = 10
    """fixed: k of k-means for each token (paper: 10); a token with no more vectors than this keeps them as they are.
    adaptive: the most senses that a token may get."""
    min_senses: PositiveInt = 1
    """adaptive: the least senses that a token gets (but never more than it has vectors)."""
    sense_cost: NonNegativeFloat = 1.0
    """adaptive: a further sense must save this many times the mean squared distance of the token's vectors from their mean; more
    gives fewer senses. What is saved is estimated for states not seen."""
    contexts_per_sense: Annotated[int, Field(ge=0, le=100)] = 3
    """Text snippets that are kept of each sense: where the states nearest to it were found."""
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
    """Where candidates come from: word relations (paper), the index, or both (docs/method.md, "Candidates")."""
    retrieve_on: Literal["student", "teacher"] = "student"
    """Whose node picks the candidates. `student`: the teacher's hidden states at sense positions travel to it. `teacher`: only the
    numbers of the chosen senses travel; every teacher then opens the dictionary (`dictionary`, `local_dir`) and loads the index."""
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
