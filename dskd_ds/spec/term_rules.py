"""Rules about losses below the head, one function per rule."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.problems import Problem
from dskd_ds.spec.sections import RunSections
from dskd_ds.spec.terms import DISTANCE_KINDS, SENSE_KINDS


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


def sense_kinds_have_a_dictionary(spec: RunSections) -> Iterator[Problem]:
    """A term that compares with senses names the dictionary of its layer."""
    for index, term in enumerate(spec.loss.terms):
        if term.needs_senses and term.dictionary is None:
            what = f'kind = "{term.kind}"' if term.kind in SENSE_KINDS else "smoothing"
            yield Problem(
                key=f"loss.terms.{index}.dictionary",
                value=None,
                reason=f"{what} needs the senses of the teacher's layer",
                way_out="build a dictionary with [senses] hidden_layer = the teacher's layer, and"
                " name its folder",
            )


def sense_keys_have_an_effect(spec: RunSections) -> Iterator[Problem]:
    """Keys about senses are given only where the term reads them."""
    for index, term in enumerate(spec.loss.terms):
        if term.smoothing and term.kind not in DISTANCE_KINDS:
            yield Problem(
                key=f"loss.terms.{index}.smoothing",
                value=term.smoothing,
                reason=f'kind = "{term.kind}" has no target state',
                way_out='remove smoothing, or set kind = "mse" or "cosine"',
            )
        elif not term.needs_senses and (term.dictionary or term.shuffled_senses):
            key = "dictionary" if term.dictionary else "shuffled_senses"
            yield Problem(
                key=f"loss.terms.{index}.{key}",
                value=getattr(term, key),
                reason=f'kind = "{term.kind}" reads no senses',
                way_out=f"remove {key}, or set smoothing or another kind",
            )


TERM_RULES = (
    terms_are_different,
    decay_goes_forward,
    sense_kinds_have_a_dictionary,
    sense_keys_have_an_effect,
)
