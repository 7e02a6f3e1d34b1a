"""Each sentence about a plan's assumptions is shown exactly where it applies."""

from __future__ import annotations

import pytest

from dskd_ds.costs.assumptions import assumptions
from dskd_ds.costs.calibration import cluster_of
from dskd_ds.costs.clusters import Cluster, open_cluster
from tests.unit.bench.test_calibrate import MEASURED
from tests.unit.costs.test_memory import spec_with

CLUSTER = open_cluster("h100-80")
HERE = cluster_of(MEASURED)
CUT = ("student.layers=first", "student.num_layers=4")
OFFLOADED = "deepspeed=ds_configs/zero3_offload.json"


def text(cluster: Cluster | None, *overrides: str) -> str:
    return "\n".join(assumptions(spec_with(*overrides), cluster, "a reason"))


@pytest.mark.parametrize(
    ("override", "sentence", "places"),
    [
        ("train.on_policy_fraction=0.5", "on_policy_fraction = 0.5, memory", {None, CLUSTER, HERE}),
        ("repair.steps=1000", "the 1,000 steps of [repair]", {None, CLUSTER, HERE}),
        ("topology.threads_per_rank=4", "threads_per_rank = 4, the times are too long", {HERE}),
        ("topology.threads_per_rank=0", "threads_per_rank = 0, the times may be too", {HERE}),
        ("student.dtype=float32", '[student] dtype = "float32", the times', {CLUSTER}),
        ("teacher.dtype=float32", '[teacher] dtype = "float32", the times', {CLUSTER}),
        (OFFLOADED, "zero3_offload.json, the times are too short", {CLUSTER}),
        ("deepspeed=ds_configs/zero_pp.json", "with the ZeRO++ of ds_configs/zero_pp", {CLUSTER}),
        ("topology.num_teachers=0", "as many teachers as are needed", {CLUSTER, HERE}),
    ],
)
def test_a_sentence_is_shown_where_it_applies(
    override: str, sentence: str, places: set[Cluster | None]
) -> None:
    for cluster in (None, CLUSTER, HERE):
        assert (sentence in text(cluster, *CUT, override)) == (cluster in places), cluster
        assert sentence not in text(cluster, *CUT)


def test_a_teacher_that_is_not_asked_has_no_times() -> None:
    cached = ("teacher.source=cache", "topology.num_teachers=0", "teacher.dtype=float32")
    assert "[teacher] dtype" not in text(CLUSTER, *cached)


def test_the_reason_for_no_times_is_given() -> None:
    assert "no times: a reason" in text(None)
    assert "no times" not in text(HERE) + text(CLUSTER)
