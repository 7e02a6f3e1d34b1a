"""The blocks of a spec, for tests that do not care how the teacher's tokenizer is found."""

from __future__ import annotations

from typing import Any

from dskd_ds.data.batches import BlockSource
from dskd_ds.data.blocks import heldout_blocks, train_blocks
from dskd_ds.data.documents import heldout_documents, train_documents
from dskd_ds.data.source import open_source
from dskd_ds.models.named import NamedModel
from dskd_ds.spec import RunSpec


def teacher_of(spec: RunSpec) -> NamedModel:
    return NamedModel.of_teacher(spec.teacher)


def train_blocks_of(spec: RunSpec, epoch: int = 0) -> Any:
    return train_blocks(spec.data.of_epoch(epoch), teacher_of(spec).tokenizer)


def heldout_blocks_of(spec: RunSpec) -> Any:
    return heldout_blocks(spec.data, teacher_of(spec).tokenizer)


def train_documents_of(spec: RunSpec) -> Any:
    return train_documents(spec.data, teacher_of(spec).tokenizer)


def heldout_documents_of(spec: RunSpec) -> Any:
    return heldout_documents(spec.data, teacher_of(spec).tokenizer)


def source_of(spec: RunSpec) -> BlockSource:
    return open_source(
        spec.data,
        teacher_of(spec).tokenizer,
        seed=spec.seed,
        step_blocks=spec.train.global_batch_blocks,
    )
