"""Seconds of collectives: ZeRO's gathers and reductions, and all-reduces of a teacher's ranks."""

from __future__ import annotations

from dskd_ds.costs.clusters import Cluster
from dskd_ds.costs.constants import Constants
from dskd_ds.costs.work import StepWork, TeacherWork


def _collective(
    num_bytes: float, calls: int, num_ranks: int, cluster: Cluster, constants: Constants
) -> float:
    """Return the seconds of gathers (or reduce-scatters) of so many bytes in so many calls."""
    if num_ranks == 1:
        return 0.0
    reached = constants.collective_efficiency * cluster.bandwidth(num_ranks)
    moving = num_bytes * (num_ranks - 1) / num_ranks / reached
    return moving + calls * (num_ranks - 1) * constants.hop_seconds


def pass_collectives(work: StepWork, cluster: Cluster, constants: Constants) -> tuple[float, float]:
    """Return the seconds of the collectives in the forward and backward pass of a micro-batch."""
    gather = back = 0.0
    calls = work.shape.num_layers + 2
    passed = work.trained_layers * work.shape.parameters_per_layer + work.shape.embedding_parameters
    if work.zero_stage == 3:
        num_bytes = work.parameter_bytes * work.shape.num_parameters
        gather = _collective(num_bytes, calls, work.num_ranks, cluster, constants)
        calls_back = work.trained_layers + 2
        num_bytes = work.parameter_bytes * passed
        back = _collective(num_bytes, calls_back, work.num_ranks, cluster, constants)
    if work.zero_stage >= 2:
        num_bytes = work.gradient_bytes * work.trained_parameters
        back += _collective(num_bytes, work.trained_layers, work.num_ranks, cluster, constants)
    return gather, back


def step_collectives(work: StepWork, cluster: Cluster, constants: Constants) -> float:
    """Return the seconds of the collectives at the end of a step, which nothing hides."""
    if work.zero_stage == 3:
        return 0.0
    seconds = 0.0
    if work.zero_stage < 2:
        num_bytes = 2 * work.gradient_bytes * work.trained_parameters
        seconds += _collective(num_bytes, work.trained_layers, work.num_ranks, cluster, constants)
    if work.zero_stage > 0:
        num_bytes = work.parameter_bytes * work.trained_parameters
        seconds += _collective(num_bytes, work.trained_layers, work.num_ranks, cluster, constants)
    return seconds


def added_seconds(
    compute: float, collective: float, constants: Constants, cluster: Cluster
) -> float:
    """Return what overlapped collectives add to a computation."""
    share = constants.hidden_share(cluster.architecture)
    return max(compute, collective) + share * min(compute, collective) - compute


def teacher_all_reduces(work: TeacherWork, cluster: Cluster, constants: Constants) -> float:
    """Return the seconds of the all-reduces between a teacher's ranks: two per layer."""
    if work.ranks_per_teacher == 1:
        return 0.0
    num_bytes = work.parameter_bytes * work.request_tokens * work.shape.hidden_size
    # An all-reduce is a reduce-scatter and a gather.
    return (
        work.shape.num_layers
        * 2
        * _collective(2 * num_bytes, 2, work.ranks_per_teacher, cluster, constants)
    )
