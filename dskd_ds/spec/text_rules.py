"""Rules about packed text and the weights of sources, one function per rule."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.data import EPOCH
from dskd_ds.spec.problems import Problem
from dskd_ds.spec.sections import RunSections


def packed_is_no_stream(spec: RunSections) -> Iterator[Problem]:
    """Packed text is read from a folder, a stream from its sources."""
    if spec.data.packed is not None and spec.data.stream:
        yield Problem(
            key="data.packed",
            value=spec.data.packed,
            reason="[data] stream = true reads the text without storing it",
            way_out="set [data] stream = false, or remove packed",
        )


def weights_are_complete(spec: RunSections) -> Iterator[Problem]:
    """Weights are relative to each other, so every source has one or none has."""
    if not spec.data.is_weighted:
        return
    for index, source in enumerate(spec.data.train):
        if source.weight is None:
            yield Problem(
                key=f"data.train.{index}.weight",
                value=None,
                reason="other sources of [data] train have a weight",
                way_out="give every [[data.train]] a weight, or none of them",
            )


def weights_have_a_length(spec: RunSections) -> Iterator[Problem]:
    """A weighted order needs the size of each source, and reads one file of it."""
    if not spec.data.is_weighted:
        return
    if spec.data.stream:
        reason, way_out = "a stream reads its sources one after the other", "[data] stream = false"
    elif spec.data.epoch_files > 1:
        reason, way_out = "[data] epoch_files gives each epoch texts of its own", "epoch_files = 1"
    else:
        return
    yield Problem(
        key="data.train.0.weight",
        value=spec.data.train[0].weight,
        reason=reason,
        way_out=f"set {way_out}, or remove the weights",
    )


def only_training_has_weights(spec: RunSections) -> Iterator[Problem]:
    """Texts for evaluation are read whole; a dictionary's texts have `collect_tokens`."""
    sections = {"data.heldout": spec.data.heldout, "senses.corpus": spec.senses.corpus}
    for section, sources in sections.items():
        for index, source in enumerate(sources):
            if source.weight is not None:
                yield Problem(
                    key=f"{section}.{index}.weight",
                    value=source.weight,
                    reason="only the sources of [data] train have weights",
                    way_out="remove it",
                )


def questions_of_epoch_files_have_titles(spec: RunSections) -> Iterator[Problem]:
    """A question comes in the file of each epoch, with other shots or another answer.

    Its title is all that its conversations have in common, so without one a question that is held
    out of one file is trained on in another.
    """
    data = spec.data
    if data.epoch_files == 1 or data.heldout or data.heldout_fraction == 0:
        return
    for index, source in enumerate(data.train):
        if source.format == "chat" and EPOCH in source.path and source.title_field is None:
            yield Problem(
                key=f"data.train.{index}.title_field",
                value=None,
                reason="each epoch's file may hold the held-out questions of another one, and"
                " [data] heldout_fraction tells them by their title",
                way_out='set title_field = "title" (`dskd data paper` and `dskd data continue`'
                " write that column), name [[data.heldout]], or set heldout_fraction = 0",
            )


TEXT_RULES = (
    packed_is_no_stream,
    weights_are_complete,
    weights_have_a_length,
    only_training_has_weights,
    questions_of_epoch_files_have_titles,
)
