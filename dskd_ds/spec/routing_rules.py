"""Rules about further teachers and the sources that name them, one function per rule."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.problems import Problem
from dskd_ds.spec.sections import RunSections
from dskd_ds.spec.teachers import MAIN_TEACHER

ROUTED_SIGNALS = ("topk", "sampled")
"""Signals that students read without the teacher's head, of which they keep one only."""


def teachers_have_names(spec: RunSections) -> Iterator[Problem]:
    """Sources name a teacher, so no two teachers have one name, and each is named by a source."""
    names = [MAIN_TEACHER]
    named_by_sources = {source.teacher for source in spec.data.train}
    for index, teacher in enumerate(spec.teachers):
        key = f"teachers.{index}.name"
        if teacher.name in names:
            reason = "another teacher has this name (that of [teacher] is main)"
            yield Problem(key=key, value=teacher.name, reason=reason, way_out="choose another name")
        elif teacher.name not in named_by_sources:
            yield Problem(
                key=key,
                value=teacher.name,
                reason="no source of [data] train names this teacher",
                way_out=f'set teacher = "{teacher.name}" in a [[data.train]], or remove it'
                " from [[teachers]]",
            )
        names.append(teacher.name)


def sources_name_teachers(spec: RunSections) -> Iterator[Problem]:
    """A source names a teacher of the run."""
    names = [MAIN_TEACHER, *(teacher.name for teacher in spec.teachers)]
    for index, source in enumerate(spec.data.train):
        if source.teacher not in names:
            yield Problem(
                key=f"data.train.{index}.teacher",
                value=source.teacher,
                reason="[[teachers]] has no teacher of this name",
                way_out=f"use one of: {', '.join(names)}; or add it to [[teachers]]",
            )


def only_training_names_teachers(spec: RunSections) -> Iterator[Problem]:
    """No teacher is asked about held-out text, and a dictionary holds states of one teacher."""
    sections = {"data.heldout": spec.data.heldout, "senses.corpus": spec.senses.corpus}
    for section, sources in sections.items():
        for index, source in enumerate(sources):
            if source.teacher != MAIN_TEACHER:
                yield Problem(
                    key=f"{section}.{index}.teacher",
                    value=source.teacher,
                    reason="only the sources of [data] train name a teacher",
                    way_out="remove it",
                )


def routed_sources_have_weights(spec: RunSections) -> Iterator[Problem]:
    """Sources with weights are packed alone, so that a block is of one source."""
    if spec.teachers and not spec.data.is_weighted:
        yield Problem(
            key="data.train.0.weight",
            value=None,
            reason="with [[teachers]] no block may hold text of two sources, and only sources with"
            " weights are packed alone",
            way_out="give every [[data.train]] a weight, its share of the training tokens",
        )


def further_teachers_are_live(spec: RunSections) -> Iterator[Problem]:
    """The cache keeps the signal of [teacher] only."""
    if spec.teachers and spec.teacher.source != "live":
        yield Problem(
            key="teacher.source",
            value=spec.teacher.source,
            reason="the signal of [[teachers]] is not kept",
            way_out='set source = "live", or remove [[teachers]]',
        )


def further_teachers_send_a_signal(spec: RunSections) -> Iterator[Problem]:
    """Only the KL term learns from further teachers, and without their heads and layers."""
    if not spec.teachers:
        return
    loss = spec.loss
    if loss.signal not in ROUTED_SIGNALS:
        yield Problem(
            key="loss.signal",
            value=loss.signal,
            reason="students can use only top k or draws of several teachers",
            way_out='set signal = "topk" or "sampled", or remove [[teachers]]',
        )
    if loss.kd_weight == 0:
        yield Problem(
            key="loss.kd_weight",
            value=loss.kd_weight,
            reason="[[teachers]] serve the KL term only",
            way_out="set kd_weight above 0, or remove [[teachers]]",
        )
    if loss.terms:
        yield Problem(
            key="loss.terms",
            value=len(loss.terms),
            reason="[[teachers]] have other layers than [teacher]",
            way_out="remove [[loss.terms]] or [[teachers]]",
        )
    if spec.uses_senses and spec.senses.retrieve_on == "teacher":
        yield Problem(
            key="senses.retrieve_on",
            value="teacher",
            reason="[[teachers]] have no senses, so not every teacher can open the index",
            way_out='set retrieve_on = "student", or remove [[teachers]]',
        )


def replicas_are_counted(spec: RunSections) -> Iterator[Problem]:
    """The teachers of a launch include all further ones and at least one [teacher]."""
    num_teachers, num_further = spec.topology.num_teachers, spec.num_further_teachers
    if spec.teachers and 0 < num_teachers <= num_further:
        yield Problem(
            key="topology.num_teachers",
            value=num_teachers,
            reason=f"the replicas of [[teachers]] are {num_further} of them, and [teacher] needs"
            " at least one",
            way_out=f"set [topology] num_teachers = {num_further + 1} or more, or 0 if"
            " teachers are a job step of their own",
        )


ROUTING_RULES = (
    teachers_have_names,
    sources_name_teachers,
    only_training_names_teachers,
    routed_sources_have_weights,
    further_teachers_are_live,
    further_teachers_send_a_signal,
    replicas_are_counted,
)
"""In the order of the messages."""
