"""The sense positions of a request, drawn on the teacher's side as the student draws them (`[senses] retrieve_on = "teacher"`)."""

from __future__ import annotations

import torch
from torch import Tensor

from dskd_ds.data.batches import IGNORE, Batch, Sample
from dskd_ds.link.messages import Array, Wanted
from dskd_ds.senses.choose.retrieve import Selection, SenseRetriever


def selection_of(
    retriever: SenseRetriever | None,
    arrays: dict[str, Array],
    wanted: Wanted,
    input_ids: Tensor,
    position_ids: Tensor,
) -> Selection | None:
    """Draw the request's sense positions; None if it wants no senses.

    input_ids, position_ids: [B, T]. Raises ValueError if this teacher has no senses or others than the student, or if targets or keys
    make no sense.
    """
    if wanted.senses is None:
        return None
    if retriever is None:
        raise ValueError(
            'the request wants senses, and this teacher has none: [senses] retrieve_on = "student" in its spec.\n'
            "  start it with the students' spec"
        )
    if retriever.wanted != wanted.senses:
        raise ValueError(
            f"the student's senses are {wanted.senses.key}, this teacher's are {retriever.wanted.key}.\n"
            "  start it with the students' spec, and with the same [senses] dictionary"
        )
    targets, keys = torch.tensor(arrays["targets"], dtype=torch.long), arrays["sample_keys"]
    if targets.shape != input_ids.shape or keys.shape != (len(input_ids), 2):
        raise ValueError(
            f"targets {tuple(targets.shape)} and sample_keys {keys.shape} do not belong to input_ids {tuple(input_ids.shape)}"
        )
    limit = retriever.dictionary.vocab_size
    if ((targets != IGNORE) & ((targets < 0) | (targets >= limit))).any():
        raise ValueError(f"targets has values that are neither {IGNORE} nor within 0..{limit - 1}")
    samples = tuple(Sample(epoch, block) for epoch, block in keys.tolist())
    return retriever.select(Batch(samples, input_ids, position_ids, targets))
