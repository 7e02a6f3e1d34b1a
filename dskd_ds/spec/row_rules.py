"""Rules about rows that are not packed, one function per rule."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.problems import Problem
from dskd_ds.spec.sections import RunSections


def sequences_are_rows(spec: RunSections) -> Iterator[Problem]:
    """A mean per sequence needs one sequence per row; a block holds several."""
    if spec.loss.normalise == "sequence" and spec.data.packing != "none":
        yield Problem(
            key="loss.normalise",
            value="sequence",
            reason=f'[data] packing = "{spec.data.packing}" puts several documents into a row',
            way_out='set [data] packing = "none", or normalise = "global"',
        )


def on_policy_is_packed(spec: RunSections) -> Iterator[Problem]:
    """The student's own text is written in blocks: prompts are cut from them."""
    if spec.train.on_policy_fraction > 0 and spec.data.packing == "none":
        yield Problem(
            key="train.on_policy_fraction",
            value=spec.train.on_policy_fraction,
            reason='the student writes into blocks, and [data] packing = "none" has none',
            way_out='set [data] packing = "blocks", or on_policy_fraction = 0',
        )


def lost_share_is_known(spec: RunSections) -> Iterator[Problem]:
    """A share of a stream is unknown until the stream ends."""
    if spec.data.stream and spec.data.max_lost_fraction < 1:
        yield Problem(
            key="data.max_lost_fraction",
            value=spec.data.max_lost_fraction,
            reason="a streamed corpus has no known length",
            way_out="set [data] stream = false, or remove max_lost_fraction",
        )


ROW_RULES = (sequences_are_rows, on_policy_is_packed, lost_share_is_known)
