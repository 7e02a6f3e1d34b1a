"""The models that a run spec names, resolved once: path, configuration, tokenizer, fingerprints.

A command or a rank makes one `RunModels` when it starts and hands it down. Everything is read when
it is first needed and then kept. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dskd_ds.models.resolve import (
    load_tokenizer,
    model_fingerprint,
    read_config,
    resolve_model,
    tokenizer_fingerprint,
)
from dskd_ds.models.weights_digest import weights_digest
from dskd_ds.spec import RunSpec
from dskd_ds.spec.base import Dtype
from dskd_ds.spec.models import HEAD_CHUNK_ROWS, StudentSpec, TeacherSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class NamedModel:
    """A model that a spec or an option names.

    Each property is read once; it raises InputError if it cannot be read.
    """

    name: str
    """Hub name, folder or GGUF file, as it was written."""
    key: str = "[teacher] model"
    """The setting that names it, for messages."""
    dtype: Dtype = "auto"
    """Number format of its weights and forward pass."""
    compiled: bool = False
    """Whether its layers are compiled with `torch.compile`."""
    head_chunk_rows: int = HEAD_CHUNK_ROWS
    """Positions whose logits exist at a time when it answers requests."""

    @staticmethod
    def of_teacher(spec: TeacherSpec, key: str = "[teacher] model") -> NamedModel:
        """Return the model of a [teacher] section. key: the setting that names it."""
        return NamedModel(
            spec.model,
            key=key,
            dtype=spec.dtype,
            compiled=spec.compile,
            head_chunk_rows=spec.head_chunk_rows,
        )

    @staticmethod
    def of_student(name: str, spec: StudentSpec) -> NamedModel:
        """Return the student. name: [student] model, or the folder cut from the teacher."""
        return NamedModel(name, key="[student] model", dtype=spec.dtype, compiled=spec.compile)

    @cached_property
    def path(self) -> str:
        """A folder with safetensors, or a hub name: what `from_pretrained` takes."""
        return resolve_model(self.name, self.key)

    @cached_property
    def config(self) -> Any:
        """The whole transformers configuration. It is shared: copy it before changing it."""
        return read_config(self.path, self.key)

    @property
    def text_config(self) -> Any:
        """The part of the configuration that describes the language model."""
        return self.config.get_text_config()

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer (transformers)."""
        return load_tokenizer(self.path)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """Digest of the vocabulary; equal for two tokenizers with the same token ids."""
        return tokenizer_fingerprint(self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """Quick digest of samples of the weights; equal for two copies of one model."""
        return model_fingerprint(self.path)

    @cached_property
    def weights_digest(self) -> str:
        """Digest of every byte of the weights. A hub name's commit stands for its files."""
        folder = Path(self.path)
        return weights_digest(folder) if folder.is_dir() else self.fingerprint

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding and the head; may be more than the tokenizer has tokens."""
        return int(self.text_config.vocab_size)

    @property
    def hidden_size(self) -> int:
        """Dimensions of a hidden state."""
        return int(self.text_config.hidden_size)

    @property
    def max_tokens(self) -> int | None:
        """Longest text that the model reads, in tokens; None if its configuration sets no limit."""
        limit: int | None = getattr(self.text_config, "max_position_embeddings", None)
        return limit or None

    @property
    def num_layers(self) -> int:
        """Number of transformer layers."""
        return int(self.text_config.num_hidden_layers)

    def load(self, dtype: torch.dtype | None = None, **options: Any) -> Any:
        """Return the causal language model. options: further arguments of `from_pretrained`.

        dtype: None takes its own. Raises InputError if its files lack some of its weights.
        """
        from dskd_ds.models.load import load_complete
        from dskd_ds.runtime.devices import resolve_dtype

        dtype = dtype or resolve_dtype(self.dtype)
        return load_complete(self.path, f'{self.key} = "{self.name}"', dtype=dtype, **options)

    def locate(self) -> None:
        """Resolve the path now, so that a wrong name is reported first. Raises InputError."""
        _ = self.path


@dataclass(frozen=True)
class RunModels:
    """The teacher and the student of a run."""

    teacher: NamedModel
    student: NamedModel | None
    """None: the student is cut from the teacher."""

    @staticmethod
    def of(spec: RunSpec) -> RunModels:
        """Return the models of a spec. It reads no file and raises no error."""
        teacher = NamedModel.of_teacher(spec.teacher)
        if spec.student.model is None:
            return RunModels(teacher, None)
        return RunModels(teacher, NamedModel.of_student(spec.student.model, spec.student))

    @property
    def shared_vocab_size(self) -> int:
        """Number of rows that both heads have: the first rows of each (models/vocabulary.py)."""
        if self.student is None:
            return self.teacher.vocab_size
        return min(self.teacher.vocab_size, self.student.vocab_size)

    @property
    def max_tokens(self) -> int | None:
        """Longest text that teacher and student read, in tokens; None if neither sets a limit."""
        models = [self.teacher] if self.student is None else [self.teacher, self.student]
        return min((model.max_tokens for model in models if model.max_tokens), default=None)
