"""Opens the routes of a student to [[teachers]]: their links first, so that they find it early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dskd_ds.data.batches import BlockSource, Sample
from dskd_ds.data.mixture import WeightedBlocks
from dskd_ds.link import StudentSide
from dskd_ds.models.routed import RoutedTeacher
from dskd_ds.spec import RunSpec
from dskd_ds.student.replies.alignment import AlignmentTest
from dskd_ds.student.replies.requests import RequestBuilder
from dskd_ds.student.replies.routes import Route, sources_by_teacher


@dataclass(frozen=True)
class FurtherLink:
    """A teacher of [[teachers]], and the link on which this student listens for it."""

    teacher: RoutedTeacher
    link: StudentSide


def further_routes(
    links: Sequence[FurtherLink], is_printing: bool, on_policy_fraction: float
) -> list[Route]:
    """Return the routes to [[teachers]]. is_printing: whether this rank prints the self-tests."""
    return [_route(link, is_printing, on_policy_fraction) for link in links]


def routing(spec: RunSpec, source: BlockSource) -> Callable[[Sample], int] | None:
    """Return what tells the teacher of a sample; None if all samples go to [teacher].

    source: the training text, before the student writes any of it.
    """
    if not spec.teachers:
        return None
    assert isinstance(source, WeightedBlocks), "a rule of the spec: routed sources have weights"
    return sources_by_teacher(spec, source)


def _route(further: FurtherLink, is_printing: bool, on_policy_fraction: float) -> Route:
    teacher = further.teacher
    requests = RequestBuilder(
        teacher.spec,
        retriever=None,
        vocab_size=teacher.models.shared_vocab_size,
        hidden_size=teacher.models.teacher.hidden_size,
    )
    self_test = AlignmentTest(
        requests,
        teacher_head=None,
        on_policy_fraction=on_policy_fraction,
        is_printing=is_printing,
        teacher_name=teacher.name,
    )
    return Route(
        link=further.link,
        link_for_own_text=further.link,
        requests=requests,
        self_test=self_test,
        kd_weight=teacher.weight,
    )
