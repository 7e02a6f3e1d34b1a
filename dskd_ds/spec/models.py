"""[teacher], [student]: which models, and which of the teacher's layers the student keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import (
    MAY_CHANGE,
    OTHER_ROUNDING,
    Dtype,
    NonNegativeInt,
    OnResume,
    Part,
    PositiveInt,
)
from dskd_ds.spec.home import dskd_home

HEAD_CHUNK_ROWS = 128
"""Rows of logits that a frozen model forms at a time, if a spec does not say otherwise."""
SignalSourceName = Literal["live", "cache", "cache_or_live"]
"""Where students get the teacher's signal."""
OTHER_FORWARD_PASS = OnResume(
    may_change=True,
    effect="forward passes of one block round differently from those of a batch, so results are"
    " equal bit for bit only between runs with block_by_block = true or a cache",
)


class TeacherSpec(Part):
    """The frozen model that is distilled."""

    model: str
    """Hub name, folder of safetensors, or `.gguf` file of the teacher. `~` and `$VARIABLES` are
    expanded; `$DSKD_HOME` is ~/.cache/dskd unless it is set."""
    dtype: Dtype = "auto"
    """Number format of the teacher's weights and forward pass. `auto`: bfloat16 where the machine
    is fast at it, else float32."""
    compile: Annotated[bool, MAY_CHANGE] = False
    """Compile the teacher's layers with `torch.compile`, which fuses what lies between the matrix
    products. It pays off in long runs, and needs g++ on a CPU. The first requests also
    compile them: [link] deadline_seconds must be longer than that takes."""
    head_chunk_rows: Annotated[PositiveInt, OTHER_ROUNDING] = HEAD_CHUNK_ROWS
    """Number of positions whose logits the teacher holds at a time; top k and draws are taken chunk
    by chunk. A chunk takes about 16 bytes per token of the vocabulary and position (260 MB for 128
    positions of Llama 3). All teachers of a run must have the same value, because the size of a
    matrix product decides how it rounds."""
    source: Annotated[SignalSourceName, OTHER_FORWARD_PASS] = "live"
    """Where students get the teacher's signal. `live`: every request goes to a teacher.
    `cache_or_live`: what was asked before, in any run, is read from `cache_dir`; the rest goes to a
    teacher and is kept. `cache`: no teacher is started or asked, with [topology] num_teachers = 0;
    `dskd teach` fills the cache ahead."""
    cache_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder of kept teacher signal, which runs and nodes may share. Without it,
    `$DSKD_HOME/signals`."""
    cache_limit_bytes: Annotated[NonNegativeInt, MAY_CHANGE] = 1 << 36
    """Most bytes that `cache_dir` takes, for all teachers together; what was written first is
    removed first. 0: no limit."""
    block_by_block: Annotated[bool, OTHER_ROUNDING] = False
    """Let the teacher read each block, or unpacked row, in a forward pass of its own. What it says
    of a block is then the same to the last bit in any batch and for any number of ranks. With
    signal = "sampled" the draws for a block are then the same in every epoch. A cache
    (`source`) always implies it."""

    @property
    def answers_by_block(self) -> bool:
        """Whether each block is a forward pass of its own."""
        return self.block_by_block or self.source != "live"

    @property
    def cache_folder(self) -> str:
        """The folder of kept signal."""
        return self.cache_dir or str(dskd_home() / "signals")


class StudentSpec(Part):
    """The model that learns: layers of the teacher, or a model with the teacher's tokenizer."""

    model: str | None = None
    """Hub name or folder of the student. Without it, the student is cut from the teacher."""
    layers: Literal["all", "first", "list", "by_impact"] = "all"
    """Which of the teacher's layers the student keeps. `all`: every layer. `first`: the first
    `num_layers` (paper). `list`: those in `keep_layers`. `by_impact`: the `num_layers` whose
    removal hurts most."""
    num_layers: PositiveInt | None = None
    """Number of layers that the student keeps, for layers = "first" and "by_impact"."""
    keep_layers: tuple[NonNegativeInt, ...] = ()
    """The layers that the student keeps, in ascending order, for layers = "list"."""
    impact_tokens: PositiveInt = 512
    """Number of training tokens on which layers = "by_impact" measures the removal of each
    layer."""
    train_last_layers: PositiveInt | None = None
    """Train only this many of the student's last layers and freeze all else (paper: 2). Without it,
    all layers are trained."""
    train_embeddings: bool = True
    """Train embeddings, final norm and LM head too. They stay frozen with `false`, and always with
    `train_last_layers`. A student cut from its teacher has them from the teacher: `false` takes
    less time and memory per step, and brought the quickstart's student nearer to its teacher."""
    dtype: Dtype = "auto"
    """Number format of the student's forward and backward pass. `auto`: bfloat16 where the machine
    is fast at it, else float32. `precision` sets the format of what AdamW works on."""
    precision: Literal["mixed", "bf16"] = "mixed"
    """Number format of what AdamW works on. `mixed`: float32 master weights and moments. `bf16`
    (paper): weights, gradients and moments are bfloat16 only, for dtype = "bfloat16" and ZeRO
    stages 1 to 3. It saves 6 bytes per trained parameter (up to 10 where the update is what needs
    most memory), but an update of less than half a bf16 unit (0.2 to 0.4 % of the weight) is lost;
    metrics.jsonl has the share of lost updates (`unchanged_weights`)."""
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that an attention weight of the student is set to zero while training (paper: 0.1
    for Llama-3-8B), in all layers, frozen ones too. The draws are keyed by the seed and the place
    of the micro-batch in the data, so they are the same for any number of ranks and after a
    resume. Nothing else is dropped, whatever the student's configuration says, and in the repair
    nothing at all."""
    activation_checkpointing: Annotated[bool, MAY_CHANGE] = False
    """Keep only each layer's input and compute the rest again in the backward pass: takes less
    memory and about a third more time."""
    compile: Annotated[bool, MAY_CHANGE] = False
    """Compile the student's layers with `torch.compile`: less time and memory per step, after a
    slow first step. It needs g++ on a CPU."""

    @property
    def trains_outer(self) -> bool:
        """Whether embeddings, final norm and LM head are trained, and with them every layer."""
        return self.train_embeddings and self.train_last_layers is None
