"""Rules about losses below the head, one function per rule."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.problems import Problem
from dskd_ds.spec.sections import RunSections


def terms_are_different(spec: RunSections) -> Iterator[Problem]:
    """Each term has curves of its own, which its layer and kind name."""
    names = [(term.student_layer, term.kind) for term in spec.loss.terms]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem(
                key=f"loss.terms.{index}.student_layer",
                value=name[0],
                reason=f'an earlier term has kind = "{name[1]}" at this layer too',
                way_out="remove one of the two, and adapt the weight of the other",
            )


def decay_goes_forward(spec: RunSections) -> Iterator[Problem]:
    """A weight falls from an earlier to a later share of the run."""
    for index, term in enumerate(spec.loss.terms):
        if term.decay is not None and term.decay[0] >= term.decay[1]:
            yield Problem(
                key=f"loss.terms.{index}.decay",
                value=term.decay,
                reason="the first share of the run is not smaller than the second",
                way_out="write the smaller one first: [0.67, 1.0] is the last third",
            )


TERM_RULES = (terms_are_different, decay_goes_forward)
