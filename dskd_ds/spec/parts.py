"""The sections of a run spec. Each field's docstring is its documentation; units are in the names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]

Dtype = Literal["auto", "bfloat16", "float32"]
"""`auto`: bfloat16 on a GPU or on a CPU with bf16 instructions, float32 elsewhere (there bf16 is several times slower)."""


class Part(BaseModel):
    """Base of all sections: frozen, and a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class TeacherSpec(Part):
    """The frozen model that is distilled."""

    model: str
    """Hub name, folder of safetensors, or a `.gguf` file. `~` and `$VARIABLES` are expanded; `$DSKD_HOME` has a default."""
    dtype: Dtype = "auto"
    """Number format of the teacher's weights and forward pass."""


class StudentSpec(Part):
    """The model that learns: some layers of the teacher, or a model of its own with the teacher's tokenizer."""

    model: str | None = None
    """Hub name or folder; left out, the student is cut from the teacher."""
    layers: Literal["all", "first", "list", "by_impact"] = "all"
    """Which layers to keep: all, the first `num_layers` (paper), `keep_layers`, or the `num_layers` hardest to do without."""
    num_layers: PositiveInt | None = None
    """How many layers to keep, for `first` and `by_impact`."""
    keep_layers: tuple[NonNegativeInt, ...] = ()
    """The layers to keep, for `list`, in ascending order."""
    impact_tokens: PositiveInt = 512
    """How many held-in tokens `by_impact` measures each layer's removal on."""
    train_last_layers: PositiveInt | None = None
    """Train only the last this-many layers, everything else frozen (paper: 2); left out, everything is trained."""
    dtype: Dtype = "auto"
    """Number format of the student's forward and backward; master weights and Adam's moments are float32 in any case."""


class SourceSpec(Part):
    """One source of text, read with `datasets`."""

    path: str
    """A file or glob (`.txt`, `.jsonl`, `.json`, `.parquet`), or a hub dataset's name."""
    subset: str | None = None
    """The hub dataset's configuration, where it has several."""
    split: str = "train"
    """The hub dataset's split."""
    text_field: str = "text"
    """The column that holds the text."""
    title_field: str | None = None
    """The column that holds the document's title; held-out titles are never trained on."""


class DataSpec(Part):
    """Texts, and how they become blocks of tokens."""

    train: tuple[SourceSpec, ...] = Field(min_length=1)
    """What is trained on."""
    heldout: tuple[SourceSpec, ...] = ()
    """What is only evaluated on. Training documents with a title found here are dropped."""
    heldout_fraction: Fraction = 0.02
    """Without `heldout`: the share of training documents (by a hash of title or text) kept out for evaluation."""
    block_tokens: Annotated[int, Field(ge=16)] = 1024
    """Tokens in a block. Documents are packed back to back; attention never crosses from one to another."""
    stream: bool = False
    """Read in order while training, never hold or shuffle the whole: for corpora larger than the disk."""


class SensesSpec(Part):
    """The sense dictionary: how it is built, and how candidates are picked from it."""

    dictionary: str
    """Folder of the dictionary; `dskd senses build` writes it, training reads it."""
    wordnet: str
    """Folder of WordNet database files (`data.noun`, `index.noun`, ...)."""
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
    index_dims: PositiveInt = 64
    """Dimensions that PCA keeps for the HNSW index."""
    index_links: Annotated[int, Field(ge=2, le=200)] = 16
    """HNSW's M: links of a node."""
    index_build_effort: PositiveInt = 200
    """HNSW's ef_construction."""
    index_search_effort: PositiveInt = 400
    """HNSW's ef at search time; also how many candidates are fetched for exact re-ranking."""
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


class LossSpec(Part):
    """`CE + alpha tau^2 KL + lambda SENSE` (METHOD.md, "The losses")."""

    signal: Literal["topk", "exact"] = "topk"
    """What the KL is computed from: the teacher's top k and a bucket for the rest, or full logits rebuilt from hidden states."""
    top_k: PositiveInt = 64
    """k of the top-k signal."""
    kd_weight: NonNegativeFloat = 0.7
    """alpha, the weight of the KL term (paper: 0.7)."""
    temperature: PositiveFloat = 1.0
    """tau of the KL term. Above 1 the k tokens hold little of the mass: then prefer `exact` (paper: 2)."""
    sense_weight: NonNegativeFloat = 1.0
    """lambda, the weight of the sense term (paper: 1.0 to 1.5)."""
    sense_weighting: Literal["uniform", "teacher_probability"] = "uniform"
    """Weight of a position in the sense term: 1 (paper), or the teacher's probability of the right token."""
    pull: NonNegativeFloat = 1.0
    """Weight of the pull towards S+."""
    push: NonNegativeFloat = 1.0
    """Weight of the push from S-."""
    margin: PositiveFloat = 1.0
    """Squared distance per dimension beyond which a sense in S- no longer pushes (paper: 1.0)."""
    margin_unit: Literal["absolute", "median_antonym"] = "absolute"
    """`median_antonym`: the margin counts in the dictionary's median squared distance between antonyms' senses."""
    chunk_positions: PositiveInt = 256
    """Logits exist for this many positions at a time."""


class OptimizerSpec(Part):
    """AdamW and its schedule. These settings are written into the DeepSpeed configuration."""

    lr: PositiveFloat = 2e-4
    """Peak learning rate."""
    scale_lr_by_ranks: bool = False
    """Multiply `lr` by the number of student ranks (paper)."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's betas."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    weight_decay: NonNegativeFloat = 1e-3
    """AdamW's weight decay (paper: 1e-3)."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps in which the rate rises linearly; it then falls along a cosine."""
    min_lr_fraction: Fraction = 0.0
    """Where the cosine ends, as a share of `lr`."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Global gradient norm is clipped to this; 0 turns clipping off."""


class TrainSpec(Part):
    """How long, and how much at a time. Batches are global: they do not depend on the number of ranks."""

    num_steps: PositiveInt | None = None
    """Optimiser steps; or give `num_epochs`."""
    num_epochs: PositiveFloat | None = None
    """Passes over the data; or give `num_steps`."""
    global_batch_blocks: PositiveInt
    """Blocks in an optimiser step, over all ranks and accumulation steps."""
    micro_batch_blocks: PositiveInt = 1
    """Blocks in one forward of one rank. The number of accumulation steps follows."""


class TopologySpec(Part):
    """How the ranks of a launch are dealt to roles. Students come first, teachers take the last ranks."""

    num_students: PositiveInt
    """Ranks that train (one ZeRO-3 world)."""
    num_teachers: NonNegativeInt = 1
    """Teacher replicas in the same launch, one rank each; 0 if teachers are a job step of their own."""
    threads_per_rank: NonNegativeInt = 1
    """CPU threads of each rank; 0 leaves it to OMP_NUM_THREADS."""


class LinkSpec(Part):
    """The messages between students and teachers."""

    prefetch_depth: PositiveInt = 2
    """Requests that are sent ahead of the micro-batch in work."""
    credits: PositiveInt = 2
    """Requests a teacher lets each student have in flight with it."""
    address: str = "127.0.0.1"
    """Address that students bind and teachers connect to; `hostname` on a cluster: each student's own host name."""
    encrypt: bool = True
    """CURVE encryption and authentication, keys in the run directory (0600)."""
    heartbeat_seconds: PositiveFloat = 1.0
    """How often each side says that it lives."""
    dead_after_seconds: PositiveFloat = 10.0
    """Silence after which a peer counts as lost; its requests go to another teacher."""
    teacher_wait_seconds: PositiveFloat = 120.0
    """How long a student waits for a first teacher, or for another when all have left, before it saves and ends (exit 4)."""
    max_message_bytes: PositiveInt = 1 << 30
    """A longer message is refused before it is read."""


class CheckpointSpec(Part):
    """Saving and resuming."""

    every_steps: NonNegativeInt = 0
    """Save each time this many steps are done; 0: only at the end."""
    keep: PositiveInt = 2
    """How many checkpoints to keep."""


class MonitorSpec(Part):
    """What is written down while training."""

    tensorboard: bool = True
    """Write TensorBoard event files."""
    log_every_steps: PositiveInt = 1
    """A line of metrics.jsonl each this many steps."""


class EvalSpec(Part):
    """What `dskd eval` and the report measure."""

    num_tokens: PositiveInt = 16_384
    """Held-out tokens for perplexity and KL."""
    num_samples: NonNegativeInt = 3
    """Held-out beginnings that teacher and students continue, for reading."""
    sample_tokens: PositiveInt = 40
    """Length of each continuation."""
