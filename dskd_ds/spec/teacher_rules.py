"""Rules about where the teacher's signal comes from."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.problems import Problem
from dskd_ds.spec.sections import RunSections


def cache_has_no_teachers(spec: RunSections) -> Iterator[Problem]:
    """With nothing but a cache, ranks that serve as teachers would wait in vain."""
    num_teachers = spec.topology.num_teachers
    if spec.teacher.source == "cache" and num_teachers:
        yield Problem(
            key="topology.num_teachers",
            value=num_teachers,
            reason='[teacher] source = "cache" asks no teacher',
            way_out='set [topology] num_teachers = 0, or [teacher] source = "cache_or_live"',
        )


def cache_knows_no_new_text(spec: RunSections) -> Iterator[Problem]:
    """Text that the student writes is in no cache."""
    fraction = spec.train.on_policy_fraction
    if spec.teacher.source == "cache" and fraction > 0:
        yield Problem(
            key="train.on_policy_fraction",
            value=fraction,
            reason='[teacher] source = "cache" has no signal for text that the student writes',
            way_out='set [teacher] source = "cache_or_live", or on_policy_fraction = 0',
        )


def cache_keeps_no_senses(spec: RunSections) -> Iterator[Problem]:
    """Which senses a teacher chooses depends on the epoch and the dictionary."""
    is_cached = spec.teacher.source != "live"
    if is_cached and spec.uses_senses and spec.senses.retrieve_on == "teacher":
        yield Problem(
            key="teacher.source",
            value=spec.teacher.source,
            reason='the senses that [senses] retrieve_on = "teacher" chooses are other ones in each'
            " epoch",
            way_out='set [senses] retrieve_on = "student", or [teacher] source = "live"',
        )


def cache_keeps_no_layers(spec: RunSections) -> Iterator[Problem]:
    """No cache keeps states of several layers; losses below the head and the repair need them."""
    if spec.teacher.answers_by_block and spec.loss.terms:
        yield Problem(
            key="loss.terms",
            value=len(spec.loss.terms),
            reason="states of layers are not sent block by block, as [teacher] source ="
            f' "{spec.teacher.source}" or block_by_block asks',
            way_out='set [teacher] source = "live" and block_by_block = false, or remove'
            " [[loss.terms]]",
        )
    if spec.teacher.source == "cache" and spec.repair.steps:
        yield Problem(
            key="repair.steps",
            value=spec.repair.steps,
            reason='[teacher] source = "cache" has no states of the teacher\'s layers',
            way_out='set [teacher] source = "cache_or_live", or [repair] steps = 0',
        )


TEACHER_RULES = (
    cache_has_no_teachers,
    cache_knows_no_new_text,
    cache_keeps_no_senses,
    cache_keeps_no_layers,
)
"""In the order of the messages."""
