"""[data]: texts and conversations, and how they become blocks or rows of tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import MAY_CHANGE, Fraction, Part, PositiveFloat, PositiveInt
from dskd_ds.spec.teachers import MAIN_TEACHER

EPOCH = "{epoch}"
"""What stands in a path for the number of the epoch, counted from 0."""


class SourceSpec(Part):
    """One source of texts or conversations, read with the `datasets` library."""

    path: str
    """A file or glob (`.txt`, `.jsonl`, `.json`, `.parquet`), or the name of a hub dataset.
    `{epoch}` in it stands for the number of a file, see [data] epoch_files."""
    subset: str | None = None
    """Configuration of the hub dataset, if it has several."""
    split: str = "train"
    """Split of the hub dataset."""
    format: Literal["text", "chat"] = "text"
    """What a row holds. `text`: a document. `chat`: a conversation, either in the column `messages`
    ([{role, content}]) or in the columns `prompt` and `completion`."""
    text_field: str = "text"
    """The column that holds the text, for format = "text"."""
    title_field: str | None = None
    """The column that holds the document's title. Documents with a held-out title are never
    trained on."""
    supervise: Literal["all", "completions"] = "all"
    """Which tokens are targets. `all`: every token (paper). `completions`, for format = "chat"
    only: the assistant's messages, or the column `completion`."""
    weight: PositiveFloat | None = None
    """Share of the training tokens that this source gives, relative to the weights of the other
    sources in [data] train. Without weights every text is read once per epoch. With weights an
    epoch has as many blocks as all sources together, and a source is read more or less than once.
    """
    teacher: str = MAIN_TEACHER
    """Name of the teacher that is asked about the text of this source: one of [[teachers]], or
    `main` for [teacher]. Requests for it go to no other teacher."""

    def of_epoch(self, epoch: int) -> SourceSpec:
        """Return the source of an epoch: itself, or its file with that number."""
        return self.model_copy(update={"path": self.path.replace(EPOCH, str(epoch))})


class DataSpec(Part):
    """Texts and conversations, and how they become blocks of tokens."""

    train: tuple[SourceSpec, ...] = Field(min_length=1)
    """Sources of the training documents, one section [[data.train]] each."""
    epoch_files: PositiveInt = 1
    """Number of files that a `path` with `{epoch}` stands for: {epoch} is 0, 1, ... Epoch e trains
    on file e, and after the last file the first one follows again. `dskd data continue` writes one
    per epoch. The dictionary and the choice of layers read file 0."""
    heldout: tuple[SourceSpec, ...] = ()
    """Sources of documents for evaluation only, one section [[data.heldout]] each. Training
    documents with one of their titles are dropped."""
    heldout_fraction: Fraction = 0.02
    """Share of the training documents that is kept for evaluation if `heldout` names no source.
    A hash of the title (of the text, if there is no title) decides. 0 keeps none (paper)."""
    packing: Literal["blocks", "none"] = "blocks"
    """How training documents become the rows of a batch. `blocks`: packed into blocks of
    `block_tokens` tokens. `none`: one document or conversation per row, whole, padded to the
    longest row of its micro-batch (paper); a row counts as a block in [train]."""
    block_tokens: Annotated[int, Field(ge=16)] = 1024
    """Tokens per block. Documents are packed one after the other, conversations are kept whole.
    Attention never crosses from one document to another. With packing = "none" only the dictionary,
    the choice of layers and the evaluation use blocks."""
    max_lost_fraction: Fraction = 1.0
    """Largest share of a source's conversations that may be lost: malformed, longer than the model
    reads, or, in blocks, longer than a block. Above it the run stops before the first step, and so
    do `dskd data paper` (unusable questions) and `dskd data continue`."""
    chat_template: str = "tokenizer"
    """How conversations become text, and questions prompts. `tokenizer`: the template of the
    teacher's tokenizer. `plain`: User: ... Assistant: ... Or the path of a `.jinja` file. A
    template that writes today's date gets 26 July 2024: the text is the same on every day."""
    stream: bool = False
    """Read the corpus while training, without storing or shuffling all of it: for corpora larger
    than the disk. The corpus is dealt to as many lanes as a step has blocks ([train]
    global_batch_blocks), and a rank tokenises only the lanes of its own blocks."""
    stream_group_documents: PositiveInt = 1000
    """Number of consecutive rows of a stream that go to one lane and are packed together. The rest
    of a group's texts, less than a block, is dropped. A stream needs this many documents for each
    of its `global_batch_blocks` lanes before it gives one batch; fewer documents start sooner."""
    packed: Annotated[str | None, MAY_CHANGE] = None
    """Folder to which `dskd data pack` writes the training text as tokens, and from which the run
    then reads it. Opening it takes less than a second for any size. The run trains on the same
    blocks in the same order as without it."""

    @property
    def is_weighted(self) -> bool:
        """Whether the sources have weights."""
        return any(source.weight is not None for source in self.train)

    def of_source(self, index: int) -> DataSpec:
        """Return the same data with only one of the training sources."""
        return self.model_copy(update={"train": (self.train[index],)})

    def of_epoch(self, epoch: int) -> DataSpec:
        """Return the same data with the files of an epoch, and no others."""
        sources = tuple(source.of_epoch(epoch % self.epoch_files) for source in self.train)
        return self.model_copy(update={"train": sources, "epoch_files": 1})
