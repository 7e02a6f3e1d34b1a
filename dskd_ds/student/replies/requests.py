"""Turns a student's micro-batches into requests, and the replies into targets for the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dskd_ds.data.batches import Batch
from dskd_ds.errors import LinkError
from dskd_ds.link import Answer
from dskd_ds.link.messages import Array, CandidatesWanted, Wanted
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.losses.senses_at_layer import TermSenses
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.runtime.seeds import epoch_seed
from dskd_ds.senses.choose.at_layer import TermRetriever
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.choose.selection import Selection
from dskd_ds.signals.kind import Ints, Part, SignalKind, signal_kind
from dskd_ds.signals.reply import ReplyParts, ReplyShape, most_reply_bytes, read_reply
from dskd_ds.spec import RunSpec
from dskd_ds.student.terms.layers import LayerTerm, compared_layers_of, teacher_layers_of


@dataclass(frozen=True)
class TeacherRequest:
    """A micro-batch, and what is asked for it."""

    batch: Batch
    selection: Selection | None
    """The sense positions; None without a sense term."""
    positions: dict[Part, Ints]
    """Where each part of the reply is asked for."""
    arrays: dict[str, Array]
    wanted: Wanted


class StepRequests(ABC):
    """Turns batches into requests, and replies into targets."""

    wanted: Wanted
    """What every request of the run asks for; its seed may differ."""

    @abstractmethod
    def request(self, batch: Batch) -> TeacherRequest:
        """Put the request for a batch together."""

    @abstractmethod
    def shape(self, request: TeacherRequest) -> ReplyShape:
        """Return what the reply to a request must have."""

    @abstractmethod
    def targets(
        self, request: TeacherRequest, reply: ReplyParts
    ) -> tuple[TeacherTargets, SenseTargets]:
        """Return what the loss learns from, on the CPU."""

    def read(self, request: TeacherRequest, answer: Answer) -> ReplyParts:
        """Return the parts of a reply. Raises LinkError if it does not fit its request."""
        try:
            return self.parts(request, answer.arrays)
        except ValueError as error:
            raise LinkError(
                f"teacher {answer.teacher} sent a reply that does not fit its request: {error}."
            ) from None

    def parts(self, request: TeacherRequest, arrays: dict[str, Array]) -> ReplyParts:
        """Return the parts of a reply. Raises ValueError if shapes or values do not fit."""
        return read_reply(arrays, self.wanted, self.shape(request))

    def most_reply_bytes(self, request: TeacherRequest) -> int:
        """Return the most bytes that the reply to a request can have."""
        return most_reply_bytes(self.wanted, self.shape(request))


class RequestBuilder(StepRequests):
    """Turns batches into requests, and replies into targets, for one run."""

    def __init__(
        self,
        spec: RunSpec,
        retriever: SenseRetriever | None,
        vocab_size: int,
        hidden_size: int,
        terms: Sequence[LayerTerm] = (),
        term_retrievers: Sequence[TermRetriever | None] = (),
    ) -> None:
        """vocab_size, hidden_size: the teacher's, which its replies are checked against.

        terms: losses below the head, which need states of the teacher's layers, or candidates that
        the teacher chose by them, at the supervised positions. term_retrievers: what finds the
        senses of each term.
        """
        self._terms, self._term_retrievers = tuple(terms), tuple(term_retrievers)
        self._asked_for = tuple(
            candidates_asked_for(spec, term, retriever)
            for term, retriever in zip(terms, term_retrievers, strict=True)
        )
        self.kind: SignalKind[Any] = signal_kind(spec.loss)
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self._retriever, self._seed = retriever, spec.seed
        self._normalise = spec.loss.normalise
        teacher_chooses = retriever is not None and spec.senses.retrieve_on == "teacher"
        self.wanted = Wanted(
            top_k=spec.loss.top_k,
            temperatures=self.kind.temperatures,
            num_draws=spec.loss.num_draws,
            draw_temperature=spec.loss.temperature,
            draw_seed=spec.seed,  # `request` replaces it with the seed of the batch's epoch
            hidden_format=spec.link.hidden_format,
            by_block=spec.teacher.answers_by_block,
            layers=self._layers_of_reply(),
            senses=retriever.wanted if retriever is not None and teacher_chooses else None,
            # Terms with the same candidates share them.
            candidates=tuple(dict.fromkeys(filter(None, self._asked_for))),
        )

    def _layers_of_reply(self) -> tuple[int, ...]:
        """Return the layers whose states are asked for: as targets, or to choose senses by them."""
        need_states = [
            term for term, asked in zip(self._terms, self._asked_for, strict=True) if asked is None
        ]
        return teacher_layers_of(need_states)

    @property
    def _teacher_chooses(self) -> bool:
        """Whether the teacher is asked to choose any senses."""
        return self.wanted.senses is not None or bool(self.wanted.candidates)

    def request(self, batch: Batch) -> TeacherRequest:
        """Draw the batch's sense positions and put its request together."""
        selection = self._retriever.select(batch) if self._retriever else None
        student_chooses = selection is not None and self.wanted.senses is None
        sense = np.zeros(0, np.int64)
        if selection is not None and student_chooses:
            sense = np.unique(selection.positions)
        positions = self.kind.positions(batch.supervised.numpy(), sense)
        position_arrays = {
            f"{part}_positions": where.astype(np.int32) for part, where in positions.items()
        }
        # A block comes again in the next epoch with the same content. With a seed per epoch, the
        # teacher's draws for it differ. Replies by block are to be the same in every epoch.
        draw_seed = self._seed
        if not self.wanted.by_block:
            draw_seed = epoch_seed(self._seed, batch.samples[0].epoch)
        supervised = batch.supervised.numpy()
        layer_positions = supervised if self.wanted.layers else supervised[:0]
        return TeacherRequest(
            batch=batch,
            selection=selection,
            positions=positions,
            arrays={
                "input_ids": batch.input_ids.numpy().astype(np.int32),
                "position_ids": batch.position_ids.numpy().astype(np.int32),
                **position_arrays,
                "layer_positions": layer_positions.astype(np.int32),
                **selection_arrays(batch if self._teacher_chooses else None),
            },
            wanted=self.wanted.model_copy(update={"draw_seed": draw_seed}),
        )

    def shape(self, request: TeacherRequest) -> ReplyShape:
        """Return what the reply to a request must have."""
        num_chosen = 0
        if request.selection is not None and self.wanted.senses is not None:
            num_chosen = len(request.selection)
        return ReplyShape(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_top_k=len(request.positions["top_k"]),
            num_drawn=len(request.positions["draw"]),
            num_hidden=len(request.positions["hidden"]),
            num_chosen=num_chosen,
            num_at_layers=len(request.arrays["layer_positions"]),
            num_with_candidates=len(request.batch.supervised) if self.wanted.candidates else 0,
        )

    def targets(
        self, request: TeacherRequest, reply: ReplyParts
    ) -> tuple[TeacherTargets, SenseTargets]:
        """Return what the objective learns from, on the CPU."""
        supervised = request.batch.supervised
        senses = self._sense_targets(request, reply)
        weights = None
        if self._normalise == "sequence":
            num_columns = request.batch.targets.shape[1]
            weights = mean_weights(supervised, num_columns)
            sense_weights = senses.weights * mean_weights(senses.positions, num_columns)
            senses = replace(senses, weights=sense_weights)
        teacher = TeacherTargets(
            positions=supervised,
            targets=request.batch.targets.flatten()[supervised],
            signal=self.kind.targets(reply),
            weights=weights,
            layers=self._compared_states(reply),
            terms=self._term_senses(request.batch, reply),
        )
        return teacher, senses

    def _compared_states(self, reply: ReplyParts) -> Tensor | None:
        """Return the states [layers, N, D] that are targets; None if no term has such a target."""
        compared = compared_layers_of(self._terms)
        if reply.layers is None or not compared:
            return None
        if compared == self.wanted.layers:
            return reply.layers
        return reply.layers[[self.wanted.layers.index(layer) for layer in compared]]

    def _term_senses(self, batch: Batch, reply: ReplyParts) -> tuple[TermSenses | None, ...]:
        """Return what each loss below the head learns from senses; choose them if needed."""
        learned: list[TermSenses | None] = []
        asked = zip(self._terms, self._term_retrievers, self._asked_for, strict=True)
        for term, retriever, candidates in asked:
            if retriever is None:
                learned.append(None)
            elif candidates is not None:
                found = reply.candidates[self.wanted.candidates.index(candidates)]
                learned.append(retriever.pack(batch, found))
            else:
                assert reply.layers is not None
                row = self.wanted.layers.index(term.teacher_layer)
                learned.append(retriever.senses(batch, reply.layers[row]))
        return tuple(learned)

    def _sense_targets(self, request: TeacherRequest, reply: ReplyParts) -> SenseTargets:
        """Choose senses unless the teacher did, and look up their vectors."""
        selection = request.selection
        if selection is None or self._retriever is None:
            return SenseTargets.empty(self.hidden_size)
        chosen = reply.chosen
        if self.wanted.senses is None:
            top_k = reply.top_k.rows(_rows_at(selection, request.positions["top_k"]))
            hidden = reply.hidden[_rows_at(selection, request.positions["hidden"])]
            last_tail = len(self.wanted.temperatures) - 1  # at temperature 1
            chosen = self._retriever.choose(selection, hidden, top_k, last_tail)
        return self._retriever.pack(selection, chosen)


def candidates_asked_for(
    spec: RunSpec, term: LayerTerm, retriever: TermRetriever | None
) -> CandidatesWanted | None:
    """Return what the teacher is asked to choose for a loss below the head; None: nothing."""
    if retriever is None or not spec.is_chosen_by_teacher(term.spec):
        return None
    return retriever.wanted


def mean_weights(positions: Tensor, num_columns: int) -> Tensor:
    """Return weights [P] float32 that turn a sum over positions into a sum of the rows' means.

    positions: [P] through the flattened B * T, with T = num_columns. A row without positions adds
    nothing.
    """
    rows = positions // num_columns
    return 1.0 / torch.bincount(rows)[rows].float()


def _rows_at(selection: Selection, positions: Ints) -> Tensor | slice:
    """Return the rows of a part of the reply at the selected positions.

    positions: [R], ascending, where the part was asked for. A slice, if no row is left out or comes
    twice: taking it copies nothing.
    """
    if np.array_equal(positions, selection.positions):
        return slice(None)
    return torch.from_numpy(np.searchsorted(positions, selection.positions))


def selection_arrays(batch: Batch | None) -> dict[str, Array]:
    """Return what a teacher draws the same sense positions from; None: it chooses no senses."""
    if batch is None:
        return {
            "targets": np.zeros((0, 0), np.int32),
            "sample_keys": np.zeros((0, 2), np.int64),
        }
    keys = [[sample.epoch, sample.block] for sample in batch.samples]
    return {
        "targets": batch.targets.numpy().astype(np.int32),
        "sample_keys": np.array(keys, np.int64),
    }
