"""What `dskd bench calibrate` makes of its measurements, and that a wrong file is refused."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.bench.calibrate import in_processes, seconds_of
from dskd_ds.costs.calibration import (
    Measured,
    calibration_file,
    calibration_here,
    cluster_of,
    constants_of,
    read_calibration,
    write_calibration,
)
from dskd_ds.costs.constants import DEFAULT
from dskd_ds.errors import InputError
from dskd_ds.runtime.cpu_features import cpu_name, num_usable_cores

MEASURED = Measured(
    flops_per_second=5e10,
    memory_bandwidth=1e10,
    traffic_eager=4.0,
    head_passes=11.0,
    teacher_head_passes=7.0,
    all_reduce_bandwidth=1e9,
    hop_seconds=1e-4,
    disk_write_bandwidth=2e9,
    num_ranks=2,
    cpu="a CPU",
    num_cores=2,
    memory_bytes=8 << 30,
)
HERE = replace(MEASURED, cpu=cpu_name(), num_cores=num_usable_cores())
"""The same, as if it was measured on this machine."""


def rank_and_process(rank: int, ready: Any) -> tuple[int, int]:
    ready.wait()
    return rank, os.getpid()


def fail_on_rank_1(rank: int, ready: Any) -> int:
    if rank == 1:
        raise ValueError("no speed")
    ready.wait()
    return rank


def test_a_calibration_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSKD_HOME", str(tmp_path))
    assert read_calibration() is None
    assert write_calibration(MEASURED) == calibration_file()
    found = read_calibration()
    assert found is not None
    assert found.measured == MEASURED
    assert found.cluster == cluster_of(MEASURED)
    calibration_file().write_text("{")
    with pytest.raises(InputError, match="dskd bench calibrate"):
        read_calibration()


@pytest.mark.parametrize(
    ("measured", "gpus", "reason"),
    [
        (HERE, [], ""),
        (HERE, [80 << 30], "measures machines without GPUs"),
        (replace(HERE, cpu="another"), [], f"{HERE.num_cores} cores of another, and this process"),
        (replace(HERE, num_cores=999), [], "measured 999 cores of"),
        (None, [], "measures this machine"),
    ],
)
def test_a_calibration_holds_only_where_it_was_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: Measured | None,
    gpus: list[int],
    reason: str,
) -> None:
    monkeypatch.setenv("DSKD_HOME", str(tmp_path))
    monkeypatch.setattr("dskd_ds.costs.calibration.gpu_memory_bytes", lambda: gpus)
    if measured is not None:
        write_calibration(measured)
    found, why = calibration_here()
    assert (found is None) == bool(reason)
    assert reason in why


def test_a_calibration_of_another_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSKD_HOME", str(tmp_path))
    calibration_file().write_text('{"version": 0}')
    assert read_calibration() is None


def test_measured_speeds_count_as_they_are() -> None:
    cluster, constants = cluster_of(MEASURED), constants_of(MEASURED)
    assert constants.matmul(cluster.architecture) == 1.0
    assert cluster.flops_per_second == MEASURED.flops_per_second
    assert constants.traffic_eager == 4.0
    assert constants.head_passes == 11.0
    assert constants.link_bandwidth == DEFAULT.link_bandwidth  # not measured


def test_the_median_is_not_moved_by_one_slow_repetition() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        if len(calls) == 3:
            time.sleep(0.2)

    assert seconds_of(work) < 0.2
    assert len(calls) > 3


def test_processes_measure_at_once_and_errors_come_back() -> None:
    found = in_processes(rank_and_process, 2)
    assert {rank for rank, _ in found} == {0, 1}
    assert len({process for _, process in found}) == 2
    with pytest.raises((ValueError, RuntimeError)):
        in_processes(fail_on_rank_1, 2)
