"""Checks which senses a request asks the teacher for, and draws positions as the student does.

Used for `[senses] retrieve_on = "teacher"`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dskd_ds.data.batches import IGNORE, Batch, Sample
from dskd_ds.link.messages import Array, CandidatesWanted, SensesWanted, Wanted
from dskd_ds.senses.choose.at_layer import TermRetriever
from dskd_ds.senses.choose.on_teacher import TeacherSenses
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.choose.selection import Selection

WAY_OUT = "start the teacher with the students' spec"


@dataclass(frozen=True)
class AskedSenses:
    """The senses that a request asks for, and what they are chosen with."""

    batch: Batch
    retriever: SenseRetriever | None
    """For the sense term of [loss]; None if it is not asked for."""
    selection: Selection | None
    """The positions of the sense term; None if it is not asked for."""
    terms: tuple[TermRetriever, ...]
    """For losses below the head, one per set of candidates that the request names."""

    @property
    def positions(self) -> Tensor:
        """[Q] positions of the sense term; one may come twice."""
        if self.selection is None:
            return torch.zeros(0, dtype=torch.long)
        return torch.from_numpy(self.selection.positions)


def asked_senses(
    senses: TeacherSenses,
    arrays: dict[str, Array],
    wanted: Wanted,
    input_ids: Tensor,
    position_ids: Tensor,
) -> AskedSenses | None:
    """Return what a request asks to be chosen; None if it asks for no senses.

    input_ids, position_ids: [B, T]. Raises ValueError if this teacher has no senses or other
    senses than the student, or if the request's targets or sample keys are invalid.
    """
    if wanted.senses is None and not wanted.candidates:
        return None
    retriever = None
    if wanted.senses is not None:
        retriever = _retriever_for(senses.retriever, wanted.senses)
    terms = tuple(_term_retriever_for(senses, asked) for asked in wanted.candidates)
    vocabularies = [term.vocab_size for term in terms]
    if retriever is not None:
        vocabularies.append(retriever.dictionary.vocab_size)
    limit = min(vocabularies)
    batch = _batch(arrays, input_ids, position_ids, limit)
    # Losses below the head may compare with senses of the tokens that are read.
    if terms and int(input_ids.max()) >= limit:
        raise ValueError(f"input_ids has values above {limit - 1}, the last of a dictionary")
    return AskedSenses(
        batch=batch,
        retriever=retriever,
        selection=retriever.select(batch) if retriever is not None else None,
        terms=terms,
    )


def _batch(arrays: dict[str, Array], input_ids: Tensor, position_ids: Tensor, limit: int) -> Batch:
    """Return the batch of a request. limit: tokens below it are in all dictionaries.

    Raises ValueError if the targets or the sample keys are invalid.
    """
    targets = torch.tensor(arrays["targets"], dtype=torch.long)
    sample_keys = arrays["sample_keys"]
    if targets.shape != input_ids.shape or sample_keys.shape != (len(input_ids), 2):
        raise ValueError(
            f"targets {tuple(targets.shape)} and sample_keys {sample_keys.shape} do not fit"
            f" input_ids {tuple(input_ids.shape)}"
        )
    # Targets index the dictionary's tables, where a negative one would be taken from the end.
    is_token = (targets >= 0) & (targets < limit)
    if not (is_token | (targets == IGNORE)).all():
        raise ValueError(f"targets has values that are neither {IGNORE} nor within 0..{limit - 1}")
    samples = tuple(Sample(epoch, block) for epoch, block in sample_keys.tolist())
    return Batch(samples, input_ids, position_ids, targets)


def _retriever_for(retriever: SenseRetriever | None, wanted: SensesWanted) -> SenseRetriever:
    """Return this teacher's retriever. Raises ValueError if its senses are not the student's."""
    if retriever is None:
        raise ValueError(
            "the request asks for senses, but this teacher has none:"
            ' [senses] retrieve_on = "student" in its spec.\n'
            f"  {WAY_OUT}"
        )
    if retriever.wanted != wanted:
        raise ValueError(
            f"the student's senses are {wanted.key}, but this teacher's are"
            f" {retriever.wanted.key}.\n"
            f"  {WAY_OUT} and the same [senses] dictionary"
        )
    return retriever


def _term_retriever_for(senses: TeacherSenses, wanted: CandidatesWanted) -> TermRetriever:
    """Return what finds a set of candidates. Raises ValueError if this teacher has no such set."""
    if wanted in senses.terms:
        return senses.terms[wanted]
    present = [f"layer {asked.layer}, {asked.key}" for asked in senses.terms]
    raise ValueError(
        f"the student's candidates for [[loss.terms]] are layer {wanted.layer}, {wanted.key}, but"
        f" this teacher's are {'; '.join(present) or 'none'}.\n"
        f"  {WAY_OUT} and the same dictionaries in [[loss.terms]]"
    )
