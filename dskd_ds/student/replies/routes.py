"""Divides a micro-batch by the teachers that are asked about its rows, and joins what they say.

Without [[teachers]] there is one route, and a micro-batch is one request. With them each teacher
gets a request for its own rows over a link of its own, so that all that the link guarantees holds
per teacher: credits, deadlines, failover and the same fingerprint for all of its replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dskd_ds.data.batches import Batch, Sample
from dskd_ds.data.mixture import WeightedBlocks
from dskd_ds.link import StudentSide
from dskd_ds.losses.distributions import Sampled, TopK
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.objective.targets import TeacherTargets
from dskd_ds.signals.parts.chunks import concatenate
from dskd_ds.spec import RunSpec
from dskd_ds.student.replies.alignment import AlignmentTest
from dskd_ds.student.replies.requests import StepRequests


@dataclass(frozen=True)
class Route:
    """One teacher of the run: where it is asked, and how."""

    link: StudentSide
    link_for_own_text: StudentSide
    """For text that the student wrote."""
    requests: StepRequests
    self_test: AlignmentTest | None
    kd_weight: float = 1.0
    """Factor on the KL term at the rows of this teacher."""


@dataclass(frozen=True)
class RoutedRows:
    """Rows of a micro-batch that go to one teacher."""

    route: Route
    batch: Batch
    """These rows alone, as wide as the whole micro-batch."""
    rows: Tensor
    """[R] int64: their numbers in the micro-batch, ascending."""


class Routes:
    """The teachers of a run, and which of them a sample goes to."""

    def __init__(
        self, routes: Sequence[Route], route_of: Callable[[Sample], int] | None = None
    ) -> None:
        """route_of: from a sample to an index into `routes`; None: all go to the first."""
        self.routes, self._route_of = tuple(routes), route_of

    def split(self, batch: Batch) -> list[RoutedRows]:
        """Return the rows of a micro-batch by teacher, without teachers that get none."""
        if self._route_of is None:
            return [RoutedRows(self.routes[0], batch, torch.arange(len(batch.samples)))]
        indices = [self._route_of(sample) for sample in batch.samples]
        parts: list[RoutedRows] = []
        for index, route in enumerate(self.routes):
            rows = [row for row, one in enumerate(indices) if one == index]
            if rows:
                parts.append(RoutedRows(route, rows_of(batch, rows), torch.tensor(rows)))
        return parts

    def close(self) -> None:
        """Close all links; requests without an answer fail."""
        for route in self.routes:
            route.link.close()


def sources_by_teacher(spec: RunSpec, source: WeightedBlocks) -> Callable[[Sample], int]:
    """Return a function from a sample to its teacher: 0 for [teacher], then [[teachers]].

    source: the run's training text.
    """
    numbers = {teacher.name: number for number, teacher in enumerate(spec.teachers, start=1)}
    number_of_source = [numbers.get(one.teacher, 0) for one in spec.data.train]
    return lambda sample: number_of_source[source.source_of(sample)]


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some rows of a batch, ascending; its padding is not counted."""
    if len(rows) == len(batch.samples):
        return batch
    index = torch.tensor(rows)
    return Batch(
        samples=tuple(batch.samples[row] for row in rows),
        input_ids=batch.input_ids[index],
        position_ids=batch.position_ids[index],
        targets=batch.targets[index],
    )


def join_targets(
    parts: Sequence[tuple[RoutedRows, TeacherTargets, SenseTargets]],
) -> tuple[TeacherTargets, SenseTargets]:
    """Return what the objective learns from at all rows of a micro-batch.

    parts: per teacher, with positions through its own rows. At most one of them has senses.
    """
    routed, teacher, senses = parts[0]
    if len(parts) == 1 and routed.route.kd_weight == 1.0:
        return teacher, senses  # of all rows
    of_teachers = [_in_the_whole(*part[:2]) for part in parts]
    senses_of_rows = [
        replace(senses, positions=_whole_positions(routed, senses.positions))
        for routed, _, senses in parts
    ]
    with_senses = [senses for senses in senses_of_rows if len(senses.positions)]
    assert len(with_senses) <= 1, "only [teacher] has senses"
    return _concatenated(of_teachers), (with_senses or senses_of_rows)[0]


def _in_the_whole(routed: RoutedRows, targets: TeacherTargets) -> TeacherTargets:
    """Return the targets of some rows with positions through the whole micro-batch."""
    weights = torch.full((len(targets.positions),), routed.route.kd_weight)
    return replace(
        targets, positions=_whole_positions(routed, targets.positions), kd_weights=weights
    )


def _whole_positions(routed: RoutedRows, positions: Tensor) -> Tensor:
    """Return positions through a teacher's rows as positions through the whole micro-batch."""
    num_columns = routed.batch.input_ids.shape[1]
    return routed.rows[positions // num_columns] * num_columns + positions % num_columns


def _concatenated(parts: Sequence[TeacherTargets]) -> TeacherTargets:
    """Return the targets of several teachers, by ascending position."""
    positions = torch.cat([part.positions for part in parts])
    order = positions.argsort()

    def joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present)[order] if present else None

    signals = [part.signal for part in parts]
    return TeacherTargets(
        positions=positions[order],
        targets=torch.cat([part.targets for part in parts])[order],
        signal=_joined_signals(signals).rows(order),
        weights=joined([part.weights for part in parts]),
        kd_weights=joined([part.kd_weights for part in parts]),
    )


def _joined_signals(signals: Sequence[object]) -> TopK | Sampled:
    """Return top k or draws of several teachers, one after the other."""
    top_k = [signal for signal in signals if isinstance(signal, TopK)]
    if len(top_k) == len(signals):
        return concatenate(top_k)
    drawn = [signal for signal in signals if isinstance(signal, Sampled)]
    assert len(drawn) == len(signals), "a rule of the spec: [[teachers]] send top k or draws"
    num_columns = max(draws.ids.shape[1] for draws in drawn)

    def widened(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, num_columns - tensor.shape[1]))

    return Sampled(
        ids=torch.cat([widened(draws.ids) for draws in drawn]),
        weights=torch.cat([widened(draws.weights) for draws in drawn]),
        log_probs=torch.cat([draws.log_probs for draws in drawn]),
    )
