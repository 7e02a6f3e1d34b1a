"""Tests of the time formulas against counts that are written out matrix by matrix."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.costs.clusters import Cluster, open_cluster
from dskd_ds.costs.constants import DEFAULT, Constants, constant_fields
from dskd_ds.costs.shapes import model_shape
from dskd_ds.costs.time import (
    save_seconds,
    step_time,
    supply_seconds,
    teacher_time,
    teachers_needed,
)
from dskd_ds.costs.work import StepWork, TeacherWork

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
SHAPE = model_shape(LLAMA, "llama")
H100 = open_cluster("h100-80")
IDEAL = Constants(
    matmul_hopper=1.0,
    attention_hopper=1.0,
    traffic_eager=0.0,
    traffic_compiled=0.0,
    hidden_communication=0.0,
    collective_efficiency=1.0,
    hop_seconds=0.0,
    head_passes=0.0,
    teacher_head_passes=0.0,
    step_seconds=0.0,
)
WORK = StepWork(
    shape=SHAPE,
    num_ranks=1,
    row_tokens=4096,
    rows_per_micro_batch=2,
    num_micro_batches=3,
    trained_layers=32,
)
TEACHER = TeacherWork(
    shape=SHAPE,
    ranks_per_teacher=1,
    row_tokens=4096,
    rows_per_request=2,
    reply_bytes_per_token=400.0,
)


def llama_flops(tokens: int, row: int) -> tuple[int, int, int]:
    """Return the forward FLOPs of products, of causal attention, and of the head."""
    products = attention = 0
    for _ in range(32):
        for rows, columns in [
            (4096, 4096),  # queries
            (4096, 1024),  # keys
            (4096, 1024),  # values
            (4096, 4096),  # output
            (4096, 14336),  # gate
            (4096, 14336),  # up
            (14336, 4096),  # down
        ]:
            products += 2 * tokens * rows * columns
        # Scores and their product with the values; a position sees half of its row on average.
        attention += 2 * (2 * tokens * row * 4096) // 2
    return products, attention, 2 * tokens * 128256 * 4096


def test_compute_is_the_flops_of_every_matrix_over_the_peak() -> None:
    products, attention, head = llama_flops(tokens=8192, row=4096)

    time = step_time(WORK, H100, IDEAL)

    expected = 3 * (3 * products + 3.5 * attention) / 989e12
    assert time.compute == pytest.approx(expected, rel=1e-12)
    assert time.head == pytest.approx(3 * 3 * head / 989e12, rel=1e-12)
    assert time.gather_reduce == 0


def test_float32_moves_twice_the_bytes_between_the_products() -> None:
    """On a GPU. The multiple that a calibration measured holds the number format already."""
    no_traffic, eager = replace(IDEAL, traffic_eager=0.0), replace(IDEAL, traffic_eager=4.0)

    def between(cluster: Cluster, number_bytes: int) -> tuple[float, float]:
        work = replace(WORK, parameter_bytes=number_bytes)
        asked = replace(TEACHER, parameter_bytes=number_bytes)
        student, teacher = (
            [step_time(work, cluster, constants).compute for constants in (eager, no_traffic)],
            [teacher_time(asked, cluster, constants).layers for constants in (eager, no_traffic)],
        )
        return student[0] - student[1], teacher[0] - teacher[1]

    assert between(H100, 4) == pytest.approx([2 * seconds for seconds in between(H100, 2)])
    here = replace(H100, architecture="measured")
    assert between(here, 4) == pytest.approx(between(here, 2))


@pytest.mark.parametrize(
    ("recompute", "products", "attention"), [("full", 4, 4.5), ("none", 3, 3.5)]
)
def test_recomputation_adds_a_forward_pass_of_the_layers(
    recompute: str, products: float, attention: float
) -> None:
    product_flops, attention_flops, _ = llama_flops(tokens=8192, row=4096)

    time = step_time(replace(WORK, recompute=recompute), H100, IDEAL)

    expected = 3 * (products * product_flops + attention * attention_flops) / 989e12
    assert time.compute == pytest.approx(expected, rel=1e-12)


def test_the_backward_pass_ends_below_the_trained_layers() -> None:
    all_layers = step_time(WORK, H100, IDEAL)
    two_layers = step_time(replace(WORK, trained_layers=2, trains_outer=False), H100, IDEAL)

    forward = teacher_time(TEACHER, H100, IDEAL).layers * 3
    backward = all_layers.compute - forward
    assert two_layers.compute == pytest.approx(forward + backward * 2 / 32)
    assert two_layers.head == pytest.approx(all_layers.head * 2 / 3)
    assert two_layers.update < all_layers.update / 10


def test_zero_3_gathers_twice_and_reduces_once_per_micro_batch() -> None:
    # Nothing to compute, so that nothing hides the collectives.
    tiny = replace(WORK, row_tokens=1, rows_per_micro_batch=1, num_ranks=16)
    seen = step_time(tiny, H100, IDEAL).gather_reduce

    layers, embedding = 32 * SHAPE.parameters_per_layer, 128256 * 4096
    forward = 2 * SHAPE.num_parameters
    backward = 2 * (layers + embedding)
    reduced = 2 * SHAPE.num_parameters
    moving = 3 * (forward + backward + reduced) * 15 / 16 / 400e9
    assert seen == pytest.approx(moving, rel=0.01)


def test_gradients_are_reduced_once_per_step_below_stage_2() -> None:
    tiny = replace(WORK, row_tokens=1, rows_per_micro_batch=1, num_ranks=8, num_micro_batches=5)
    moved = {
        stage: step_time(replace(tiny, zero_stage=stage), H100, IDEAL).gather_reduce
        for stage in (0, 1, 2)
    }

    one = 2 * SHAPE.num_parameters * 7 / 8 / 450e9
    assert moved[0] == pytest.approx(2 * one, rel=0.01)
    assert moved[1] == pytest.approx(3 * one, rel=0.01)
    assert moved[2] == pytest.approx(6 * one, rel=0.01)


def test_hidden_collectives_cost_their_share() -> None:
    work = WORK.on(8)
    free = step_time(work, H100, IDEAL)
    shared = step_time(work, H100, replace(IDEAL, hidden_communication=0.5))

    assert free.gather_reduce == 0
    layers, embedding = 32 * SHAPE.parameters_per_layer, 128256 * 4096
    num_bytes = 2 * (2 * SHAPE.num_parameters + layers + embedding) * 3
    assert shared.gather_reduce == pytest.approx(0.5 * num_bytes * 7 / 8 / 450e9, rel=1e-9)


def test_a_teacher_is_a_forward_pass_with_a_head_at_every_position() -> None:
    products, attention, head = llama_flops(tokens=8192, row=4096)

    time = teacher_time(TEACHER, H100, IDEAL)

    assert time.layers == pytest.approx((products + attention) / 989e12, rel=1e-12)
    assert time.head == pytest.approx(head / 989e12, rel=1e-12)
    assert time.all_reduce == 0
    few = teacher_time(replace(TEACHER, head_share=0.2), H100, IDEAL)
    assert few.head == pytest.approx(time.head / 5)


def test_a_teacher_of_several_ranks_divides_the_products_and_adds_all_reduces() -> None:
    one = teacher_time(TEACHER, H100, IDEAL)
    four = teacher_time(replace(TEACHER, ranks_per_teacher=4), H100, IDEAL)

    assert four.layers == pytest.approx(one.layers / 4)
    # Twice per layer, each state crosses the links twice, but for the rank's own quarter.
    moved = 32 * 2 * 2 * (2 * 8192 * 4096) * 3 / 4
    assert four.all_reduce == pytest.approx(moved / 450e9)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 8))
def test_nobody_waits_with_as_many_teachers_as_are_needed(
    num_ranks: int, num_micro_batches: int, depth: int
) -> None:
    work = replace(WORK, num_ranks=num_ranks, num_micro_batches=num_micro_batches)
    teacher = teacher_time(TEACHER, H100)
    alone = step_time(work, H100)
    needed = teachers_needed(work, alone.own, teacher)

    enough = step_time(
        work, H100, teacher=teacher, num_teachers=math.ceil(needed), prefetch_depth=depth
    )
    assert enough.teacher_wait == 0
    assert enough.total == alone.total
    if needed > 1.01:
        few = max(1, math.ceil(needed) - 1)
        fewer = step_time(work, H100, teacher=teacher, num_teachers=few, prefetch_depth=depth)
        supply = supply_seconds(work, teacher, few, depth, alone.own)
        assert fewer.total == pytest.approx(supply)
        assert fewer.teacher_wait > 0


def test_exact_and_sense_terms_cost_time_on_the_student() -> None:
    plain = step_time(WORK, H100)
    exact = step_time(replace(WORK, rebuilds_width=4096), H100)
    senses = step_time(replace(WORK, sense_share=0.5), H100)

    assert exact.head > plain.head * 1.2
    assert plain.head < senses.head < plain.head * 1.02


def test_choosing_senses_is_hidden_until_it_takes_longer_than_the_step() -> None:
    work = replace(WORK.on(8), sense_share=0.4, retrieves_senses=True)
    slow = replace(DEFAULT, sense_query_seconds=1.0)

    assert step_time(work, H100).sense_wait == 0
    waiting = step_time(work, H100, slow)
    positions = 8 * 3 * 8192 * 0.4
    per_position = 1.0 + 180 * 2 * 4096 / 5e9
    assert waiting.total == pytest.approx(positions * per_position / 56)
    two_threads = step_time(replace(work, threads_per_rank=2), H100, slow)
    assert two_threads.total == pytest.approx(positions * per_position / 16)


def test_a_teacher_that_chooses_senses_on_one_core_answers_late() -> None:
    choosing = replace(TEACHER, sense_share=0.4)
    forward = teacher_time(TEACHER, H100).forward

    one = teacher_time(replace(choosing, threads_per_rank=1), H100)
    seven = teacher_time(choosing, H100)

    per_position = 3e-4 + 180 * 2 * 4096 / 5e9
    assert one.forward == pytest.approx(8192 * 0.4 * per_position)
    assert seven.forward == pytest.approx(max(forward, one.forward / 7))


def test_a_save_writes_at_the_file_systems_pace_or_copies_to_host_memory() -> None:
    work = replace(WORK.on(64), saved_bytes=96e9)

    assert save_seconds(work, H100) == (96 / 7, 96 / 7)
    blocked, written = save_seconds(work, H100, asynchronous=True)
    assert blocked == pytest.approx(96e9 / 64 / 2e10)
    assert written == 96 / 7
    assert save_seconds(work.on(8), H100)[0] == 48


def test_every_constant_lies_in_its_range_and_has_a_source() -> None:
    for name, constant in constant_fields().items():
        metadata = constant.metadata
        assert metadata["low"] <= constant.default <= metadata["high"], name
        assert metadata["meaning"], name
        assert metadata["source"], name
