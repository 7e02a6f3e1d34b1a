"""What the plan offers, ways out and splits, is accepted by `load_spec` and by the run."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from dskd_ds.costs.capacity import Capacity
from dskd_ds.costs.clusters import open_cluster
from dskd_ds.costs.fit import needs
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.costs.search import best_splits
from dskd_ds.costs.ways_out import ways_out
from dskd_ds.errors import InputError
from dskd_ds.plan.allocation import allocate
from tests.unit.costs.test_memory import LLAMA_8B, SHAPES, spec_with

LARGE_TEACHER = replace(SHAPES, teacher=LLAMA_8B.with_layers(320))
"""70 billion parameters: 140 GB in bfloat16."""
BATCH_64 = ("topology.num_students=64", "train.global_batch_blocks=64")


def gpus(gigabytes: float) -> Capacity:
    return Capacity(int(gigabytes * 1e9), num_gpus=8, host_bytes=2 * 10**12, source="a cluster")


def settings_of(change: str) -> list[str]:
    """Return the text of a way out as overrides: `[a] b = 1, c = 2; d = 3`."""
    found = []
    for part in change.split("; "):
        section = re.match(r"\[(\w+)\] ", part)
        prefix = f"{section[1]}." if section else ""
        found += [prefix + item for item in part[section.end() if section else 0 :].split(", ")]
    return found


def changes(*overrides: str, shapes: RunShapes = SHAPES, capacity: Capacity) -> list[str]:
    """Return what is offered, after each was loaded with the spec and found to fit."""
    offered = ways_out(spec_with(*overrides), shapes, capacity, 0.5)
    for way in offered:
        changed = spec_with(*overrides, *settings_of(way.change))
        assert not any(need.is_tight for need in needs(changed, shapes, capacity, 0.5)), way
    return [way.change for way in offered]


@pytest.mark.parametrize("gigabytes", [24, 30, 36, 40, 44, 50])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_every_way_out_is_a_valid_spec(gigabytes: int, stage: int) -> None:
    file, batch = f"deepspeed=ds_configs/zero{stage}.json", "train.global_batch_blocks=12"
    no_teacher = replace(SHAPES, teacher=SHAPES.teacher.with_layers(1))
    large = ("train.micro_batch_blocks=2", batch, file)
    changes(*large, shapes=no_teacher, capacity=gpus(gigabytes))


def test_bf16_precision_is_offered_with_its_number_format() -> None:
    assert '[student] precision = "bf16", dtype = "bfloat16"' in changes(capacity=gpus(34))


def test_students_are_doubled_only_where_the_batch_divides() -> None:
    fitting = gpus(20)
    assert "[topology] num_students = 8" in changes("train.global_batch_blocks=8", capacity=fitting)
    offered = changes("train.global_batch_blocks=12", capacity=fitting)
    assert not any("num_students" in change for change in offered)
    micro = ("train.micro_batch_blocks=2", "train.global_batch_blocks=8")
    both = "[topology] num_students = 8; [train] micro_batch_blocks = 1"
    assert both in changes(*micro, capacity=fitting)


def test_a_compiled_teacher_is_divided_without_being_compiled() -> None:
    offered = changes(*BATCH_64, shapes=LARGE_TEACHER, capacity=gpus(80))
    assert "[topology] ranks_per_teacher = 2" in offered
    compiled = ("teacher.compile=true", *BATCH_64)
    offered = changes(*compiled, shapes=LARGE_TEACHER, capacity=gpus(80))
    assert "[topology] ranks_per_teacher = 2; [teacher] compile = false" in offered


@pytest.mark.parametrize(("entry", "size"), [("num_kv_heads", 1), ("intermediate_size", 14335)])
def test_a_teacher_whose_sizes_do_not_divide_is_not_divided(entry: str, size: int) -> None:
    odd = replace(LARGE_TEACHER, teacher=replace(LARGE_TEACHER.teacher, **{entry: size}))
    assert changes(*BATCH_64, shapes=odd, capacity=gpus(80)) == []


def test_the_ranks_of_a_teacher_are_on_one_node() -> None:
    single = replace(gpus(80), num_gpus=1)
    assert changes(*BATCH_64, shapes=LARGE_TEACHER, capacity=single) == []


@pytest.mark.parametrize("ranks_per_teacher", [1, 4])
@pytest.mark.parametrize("num_gpus", [6, 8, 12, 16, 32])
def test_a_split_needs_no_more_nodes_than_its_gpus_fill(
    num_gpus: int, ranks_per_teacher: int
) -> None:
    """As `dskd submit` spreads it over nodes of 8."""
    batch = ("train.global_batch_blocks=48", f"topology.ranks_per_teacher={ranks_per_teacher}")
    splits = best_splits(spec_with(*batch), SHAPES, open_cluster("h100-80"), num_gpus, count=999)
    for split in splits:
        changed = spec_with(
            *batch,
            f"topology.num_students={split.num_students}",
            f"topology.num_teachers={split.num_teachers}",
            f"train.micro_batch_blocks={split.micro_batch_blocks}",
        )
        allocation = allocate(changed, ranks_per_node=8)
        assert allocation.num_nodes <= -(-num_gpus // 8)
    if num_gpus == 16:  # two of the students' 8 GPUs are idle
        teachers = {split.num_teachers for split in splits if split.num_students == 6}
        assert teachers == {8 // ranks_per_teacher}


def test_a_split_that_the_run_refuses_is_not_offered() -> None:
    """hpZ in groups of 8 takes 1 to 8 students, 16, 24 ..., but not 12; 1 has too little memory."""
    spec = spec_with("deepspeed=ds_configs/zero_pp.json", "train.global_batch_blocks=48")
    splits = best_splits(spec, SHAPES, open_cluster("h100-80"), 32, count=999)
    assert {split.num_students for split in splits} == {2, 3, 4, 6, 8, 16, 24}


def test_ways_out_and_splits_count_the_senses_that_the_dictionary_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand million senses have 8 TB, whatever else is changed."""
    spec = spec_with("loss.chunk_positions=64")
    assert ways_out(spec, SHAPES, gpus(40), 0.5)
    assert ways_out(spec, SHAPES, gpus(40), 0.5, num_senses=10**9) == []
    cluster = open_cluster("h100-80")
    assert best_splits(spec, SHAPES, cluster, 8)
    monkeypatch.setattr("dskd_ds.costs.search.num_senses", lambda _: 10**9)
    with pytest.raises(InputError, match="no split"):
        best_splits(spec, SHAPES, cluster, 8)
