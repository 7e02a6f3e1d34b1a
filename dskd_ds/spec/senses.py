"""[senses]: how the sense dictionary is built, and how candidates are chosen from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import (
    MAY_CHANGE,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OnResume,
    Part,
    PositiveInt,
)
from dskd_ds.spec.data import SourceSpec
from dskd_ds.spec.lexicons import NEGATING_AFFIXES, LexiconSpec

OTHER_STATES = OnResume(
    may_change=True,
    effect="a teacher chooses senses by its own states, a student by the rounded ones that it gets,"
    " so that of two nearly equal senses another one may be chosen",
)
"""For the side that chooses senses."""


class CorpusSpec(SourceSpec):
    """One text of a dictionary that is built from several."""

    chat_template: str | None = None
    """How the conversations of this text are written, as in [data]. Without it, [data]
    chat_template."""
    collect_tokens: PositiveInt | None = None
    """Number of tokens of this text that the teacher reads. Without it, [senses]
    collect_tokens."""
    vectors_per_token: PositiveInt | None = None
    """Maximum number of vectors per token from this text (paper: 1800 from Wikipedia, 2000 from the
    training sets). Without it, [senses] vectors_per_token."""


class SensesSpec(Part):
    """The sense dictionary: how it is built, and how candidates are chosen from it."""

    dictionary: str
    """Folder of the sense dictionary. `dskd senses build` writes it, training reads it."""
    local_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder on each node (`$TMPDIR`, `/dev/shm`) to which the dictionary and its index are copied
    once per node before a run reads them. Without it, they are read where they are."""
    collection_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder that keeps the vectors the teacher computed, for other dictionaries of the same text:
    another k or another clustering then needs no reading. Without it, the vectors are beside the
    dictionary and are deleted when it is complete."""
    lexicons: tuple[LexiconSpec, ...] = ()
    """Sources of word relations, one section [[senses.lexicons]] each. Several are merged."""
    morpholex: str | None = None
    """MorphoLEX, which says which English words are negations: its workbook (`.xlsx`), or a CSV or
    TSV with the columns Word and MorphoLexSegm. Without it, a rule decides."""
    spelling: Literal["normalised", "as_written"] = "normalised"
    """How the words of lexicons are spelled. `normalised`: in lower case and without words that
    have markup or no letters; each word is a head in lower case and with a capital. `as_written`
    (paper): every word as its source writes it, in this form only."""
    negation: Literal["beside", "replace"] = "beside"
    """What becomes of a negated word (`unhappy`). `beside`: it keeps its relations, and its base
    (`happy`) gets them too, with synonyms and antonyms exchanged. `replace` (paper): its base takes
    its place in every pair; only MorphoLEX says which words are negated."""
    negating_affixes: tuple[str, ...] = NEGATING_AFFIXES
    """Affixes that negate, where MorphoLEX marks them: a prefix ends with a hyphen (`un-`), a
    suffix begins with one (`-less`). A word with an odd number of them is negated. The paper's
    list also has `anti- de- a- an- -free`."""
    conflicts: Literal["resolve", "keep"] = "resolve"
    """What becomes of a pair that is both synonym and antonym. `resolve`: a stated relation
    outranks one derived from an affix; of two with the same rank the antonym stays. `keep` (paper):
    both stay."""
    max_list_length: NonNegativeInt = 256
    """Maximum number of synonyms, and of antonyms, of a word in the dictionary. A longer list is
    thinned: every n-th word in alphabetical order stays. 0 keeps all (paper)."""
    corpus: tuple[CorpusSpec, ...] = ()
    """Texts that the dictionary is built from, one section [[senses.corpus]] each, with the keys of
    [[data.train]]. Each has its own sample; all are clustered together. Without one, the text is
    [data] train. Documents that [data] keeps for evaluation stay out."""
    collect_tokens: PositiveInt = 1_000_000
    """Number of corpus tokens that the teacher reads to collect vectors."""
    attribution: Literal["argmax", "next", "on"] = "argmax"
    """Which token the vector at a position belongs to. `argmax`: the token that the teacher finds
    likeliest (paper). `next`: the token that follows in the text. `on`: the token that the position
    itself holds, for [[loss.terms]] only."""
    hidden_layer: Annotated[int, Field(ge=-1)] = -1
    """Layer whose states are collected. -1: the states that the teacher's head reads, which the
    sense term of [loss] needs. i: the output of layer i, for [[loss.terms]]; that of the last layer
    is taken after the final norm, and is for viewing and evaluation only. 0: the embeddings."""
    min_confidence: Fraction = 0.0
    """A vector is kept only if the teacher gives its token at least this probability; 0 keeps all
    (paper)."""
    vectors_per_token: PositiveInt = 2000
    """Maximum number of vectors per token; more are sampled uniformly (paper: 2000)."""
    clustering: Literal["fixed", "adaptive"] = "adaptive"
    """How many senses a token gets. `fixed`: `num_senses` for each token (paper). `adaptive`: a
    number per token, chosen with `sense_cost`."""
    num_senses: PositiveInt = 10
    """Number of senses per token. clustering = "fixed": the k of k-means (paper: 10); a token with
    at most this many vectors keeps them as they are. "adaptive": the maximum for each token."""
    min_senses: PositiveInt = 1
    """Minimum number of senses per token for clustering = "adaptive"; never more than the token has
    vectors."""
    sense_cost: NonNegativeFloat = 1.0
    """For clustering = "adaptive": a further sense must save this many times the mean squared
    distance of the token's vectors from their mean, as estimated for unseen states. A larger value
    gives fewer senses."""
    contexts_per_sense: Annotated[int, Field(ge=0, le=100)] = 3
    """Number of text snippets kept per sense: those whose states are nearest to it."""
    max_span_tokens: PositiveInt = 3
    """Maximum length of a related word in tokens (paper: 3)."""
    min_span_tokens: PositiveInt = 1
    """Minimum length of a related word in tokens. 2 leaves out every synonym and antonym that is a
    single token (paper)."""
    relations_without_senses: Literal["drop", "keep"] = "drop"
    """What becomes of related words without any sense. `drop`: they are left out of a token's
    lists, so that a token may lose all its relations. `keep`: they stay in the lists (paper); the
    token counts as related, and its related words may give no sense."""
    index_dims: PositiveInt = 256
    """Dimensions that PCA keeps for the HNSW index, 4 bytes each per sense. Of SmolLM2's 576, 64
    lose 2 % of the true 10 nearest at any search effort; 256 lose none (at 150 candidates)."""
    index_links: Annotated[int, Field(ge=2, le=200)] = 16
    """HNSW's M: number of links per node of the index."""
    index_build_effort: PositiveInt = 200
    """HNSW's ef_construction: candidates considered for each node while the index is built."""
    index_search_effort: PositiveInt = 150
    """HNSW's ef at search time, and the number of candidates fetched for exact re-ranking. The
    build prints the recall."""
    candidates: Literal["lexical", "neighbours", "hybrid"] = "hybrid"
    """Where candidates come from. `lexical`: word relations (paper). `neighbours`: the index.
    `hybrid`: both (docs/method.md, "Candidates")."""
    retrieve_on: Annotated[Literal["student", "teacher"], OTHER_STATES] = "student"
    """Which side chooses the candidates. `student`: the teacher's hidden states at sense positions
    are sent to it. `teacher`: only the row numbers of the chosen senses are sent; every teacher
    then opens the dictionary (`dictionary`, `local_dir`), and the first one of a launch on each
    node loads the index. Teachers also choose for the kinds `posterior` and `contrast` of
    [[loss.terms]], of which row numbers and distances are sent; all other kinds still get the
    states of their layers."""
    kappa: PositiveInt = 5
    """Number of nearest senses that form S+ and S- (paper: 5)."""
    num_related_words: PositiveInt = 25
    """Maximum number of synonyms, and of antonyms, drawn per position (paper: 25)."""
    num_neighbours: PositiveInt = 64
    """Size of R_i: the senses of the whole dictionary that are nearest to the teacher's state."""
    min_teacher_probability: Fraction = 0.05
    """A neighbour from the index may pull only if the teacher gives its token at least this
    probability."""
    min_positions: NonNegativeInt = 25
    """Minimum number of sense positions per block among those with word relations (paper: 25). If
    `position_fraction` of them is more, that number is used."""
    position_fraction: Fraction = 0.4
    """Share of a block's positions with word relations that are sense positions, if that is more
    than `min_positions` (paper: 0.4). The same number of other positions only pull."""
    position_rounding: Literal["up", "down"] = "up"
    """How `position_fraction` of the positions is rounded to a whole number: `up`, or `down`
    (paper)."""
    positions: Literal["disjoint", "independent"] = "disjoint"
    """Where the positions that only pull are drawn from. `disjoint`: the supervised positions that
    do not have the whole sense term. `independent`: all supervised positions (paper); a position
    that is drawn twice has two entries in the sense term."""
    own_in_pull: Literal["always", "with_synonyms"] = "always"
    """When S+ holds the target token's own senses, at positions with the whole sense term.
    `always`, or `with_synonyms`: only if the token has synonyms; else S+ is empty (paper)."""
    own_in_push: Literal["never", "with_antonyms"] = "never"
    """When S- holds the target token's own senses. `never`, or `with_antonyms`: wherever the token
    has antonyms (paper)."""
