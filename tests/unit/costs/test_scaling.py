"""Properties of the scaling study that hold whatever the constants are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dskd_ds.costs.constants import constant_fields
from tools.scaling.scale import band, rate
from tools.scaling.sensitivity import effects
from tools.scaling.setting import Setting, models
from tools.scaling.signals import KINDS, gpu_hours, signal_setting

EIGHT = Setting("Llama-8B", "Llama-8B", "h100-80", 64, senses=False)


def test_the_models_have_the_sizes_of_their_names() -> None:
    billions = {name: shape.num_parameters / 1e9 for name, shape in models().items()}

    for name, size in billions.items():
        stated = float(name.split("-")[1].removesuffix("B"))
        assert size == pytest.approx(stated, rel=0.25), name


def test_equal_models_need_less_than_a_quarter_of_the_gpus_for_teachers() -> None:
    # Forward against forward, recomputation and backward: 2 to 8 FLOPs, and collectives besides.
    assert 0.15 < EIGHT.teacher_gpus() / 64 < 0.25


def test_a_405b_teacher_fits_no_node_of_80_gb_gpus() -> None:
    large = replace(EIGHT, teacher="Llama-405B")

    assert large.ranks_per_teacher() is None
    assert replace(large, cluster="h200").ranks_per_teacher() == 8


def test_more_gpus_hold_larger_students() -> None:
    student = replace(EIGHT, student="Llama-70B")

    assert not replace(student, num_students=8).student_fits()
    assert replace(student, num_students=64).student_fits()


def test_the_band_holds_the_rate() -> None:
    low, high = band(EIGHT)

    assert low < rate(EIGHT) < high


def test_a_kept_signal_costs_its_teachers_once() -> None:
    live, kept = (
        signal_setting("Llama-8B", "Llama-70B", "h100-80", kind)
        for kind in KINDS
        if kind.signal == "topk"
    )

    assert gpu_hours(kept, 1) == pytest.approx(gpu_hours(live, 1))
    teachers = gpu_hours(live, 4) - gpu_hours(kept, 4)
    students = gpu_hours(kept, 2) - gpu_hours(kept, 1)
    assert teachers == pytest.approx(3 * (gpu_hours(live, 1) - students))


def test_every_constant_of_the_step_has_an_effect_somewhere() -> None:
    without = {"restart_seconds", "gpu_hours_per_failure", "host_bandwidth", "traffic_compiled"}
    without |= {"link_bandwidth", "link_seconds"}  # hidden while nobody waits
    for name in constant_fields():
        is_other_gpu = name.endswith(("_ampere", "_volta"))
        moves = any(abs(change) > 0 for pair in effects(name).values() for change in pair)
        assert moves or name in without or is_other_gpu, name
