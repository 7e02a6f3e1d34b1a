"""What the figures of a plan assume or leave out, in sentences for its reader. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.costs.clusters import Cluster
from dskd_ds.costs.memory import ASSUMED_RELATED_FRACTION
from dskd_ds.costs.related import known_related_fraction
from dskd_ds.costs.zero_settings import zero_settings
from dskd_ds.spec import RunSpec


def assumptions(spec: RunSpec, cluster: Cluster | None, no_times: str) -> list[str]:
    """Return what the figures of a plan assume, and what they leave out.

    no_times: why there are no times without a cluster.
    """
    sentences = [*_of_the_run(spec)]
    if cluster is None:
        return [*sentences, f"no times: {no_times}"]
    if spec.asks_teachers and not spec.topology.num_teachers:
        sentences.append("as many teachers as are needed: [topology] num_teachers = 0")
    if cluster.architecture == "measured":
        return [*sentences, *_of_calibrated_times(spec)]
    return [*sentences, *_of_times_on_gpus(spec, cluster)]


def _of_the_run(spec: RunSpec) -> Iterator[str]:
    """Yield what holds for memory and times on any machine."""
    if spec.uses_senses:
        known = known_related_fraction(spec)
        share = f"{ASSUMED_RELATED_FRACTION if known is None else known:.0%}"
        sentence = f"{share} of the positions have a target with word relations"
        if known is not None and spec.senses.candidates != "neighbours":
            sentence += ", as in the text of the dictionary"
        yield sentence
    if not spec.asks_teachers:
        yield 'reading the cache takes no time: [teacher] source = "cache"'
    if spec.teachers:
        yield "every teacher is as fast as [teacher], and gets its share of the requests"
    if spec.data.packing == "none":
        yield f"every row has {spec.data.block_tokens:,} tokens"
    if spec.train.on_policy_fraction > 0:
        yield (
            "the student writes no text: with [train] on_policy_fraction ="
            f" {spec.train.on_policy_fraction:g}, memory and times are too low"
        )
    if spec.repair.steps:
        yield (
            f"there is no repair: the {spec.repair.steps:,} steps of [repair] come before training,"
            " with times and memory of their own"
        )


def _of_calibrated_times(spec: RunSpec) -> Iterator[str]:
    """Yield what holds for times on this machine."""
    yield "speeds are those that `dskd bench calibrate` measured here"
    threads = spec.topology.threads_per_rank
    if threads != 1:
        are = "are" if threads else "may be"
        yield (
            "each rank has one thread: with [topology] threads_per_rank ="
            f" {threads}, the times {are} too long"
        )


def _of_times_on_gpus(spec: RunSpec, cluster: Cluster) -> Iterator[str]:
    """Yield what holds for times that follow from data sheets."""
    yield f"speeds are those of {cluster.name}'s data sheets and fitted constants"
    dtypes = {"[student]": spec.student.dtype}
    if spec.asks_teachers:
        dtypes["[teacher]"] = spec.teacher.dtype
        dtypes |= {f"[teachers] {one.name}:": one.dtype for one in spec.teachers}
    for section, dtype in dtypes.items():
        if dtype == "float32":
            yield (
                f'matrix products are as fast as in bfloat16: with {section} dtype = "float32",'
                " the times are too short"
            )
    settings = zero_settings(spec.deepspeed)
    if settings.offloads_optimizer or settings.offloads_parameters:
        yield f"nothing is offloaded: with {spec.deepspeed}, the times are too short"
    if settings.stage == 3 and (settings.hpz_ranks > 1 or settings.quantizes):
        yield (
            "ZeRO's collectives are those of plain ZeRO-3: with the ZeRO++ of"
            f" {spec.deepspeed}, gathering and reducing take less"
        )
