"""Draws a request's sense positions on the teacher, as the student draws them.

Used for `[senses] retrieve_on = "teacher"`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dskd_ds.data.batches import IGNORE, Batch, Sample
from dskd_ds.link.messages import Array, SensesWanted, Wanted
from dskd_ds.senses.choose.retrieve import Selection, SenseRetriever


def selection_of(
    retriever: SenseRetriever | None,
    arrays: dict[str, Array],
    wanted: Wanted,
    input_ids: Tensor,
    position_ids: Tensor,
) -> Selection | None:
    """Draw the sense positions of a request; return None if it asks for no senses.

    input_ids, position_ids: [B, T]. Raises ValueError if this teacher has no senses or other
    senses than the student, or if the request's targets or sample keys are invalid.
    """
    if wanted.senses is None:
        return None
    retriever = _retriever_for(retriever, wanted.senses)
    targets = torch.tensor(arrays["targets"], dtype=torch.long)
    sample_keys = arrays["sample_keys"]
    if targets.shape != input_ids.shape or sample_keys.shape != (len(input_ids), 2):
        raise ValueError(
            f"targets {tuple(targets.shape)} and sample_keys {sample_keys.shape} do not fit"
            f" input_ids {tuple(input_ids.shape)}"
        )
    # Targets index the dictionary's tables, where a negative one would be taken from the end.
    limit = retriever.dictionary.vocab_size
    is_token = (targets >= 0) & (targets < limit)
    if not (is_token | (targets == IGNORE)).all():
        raise ValueError(f"targets has values that are neither {IGNORE} nor within 0..{limit - 1}")
    samples = tuple(Sample(epoch, block) for epoch, block in sample_keys.tolist())
    return retriever.select(Batch(samples, input_ids, position_ids, targets))


def _retriever_for(retriever: SenseRetriever | None, wanted: SensesWanted) -> SenseRetriever:
    """Return this teacher's retriever. Raises ValueError if its senses are not the student's."""
    if retriever is None:
        raise ValueError(
            "the request asks for senses, but this teacher has none:"
            ' [senses] retrieve_on = "student" in its spec.\n'
            "  start the teacher with the students' spec"
        )
    if retriever.wanted != wanted:
        raise ValueError(
            f"the student's senses are {wanted.key}, but this teacher's are"
            f" {retriever.wanted.key}.\n"
            "  start the teacher with the students' spec and the same [senses] dictionary"
        )
    return retriever
