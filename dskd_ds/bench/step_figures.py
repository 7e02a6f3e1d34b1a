"""Computes the figures of the whole step from the launches that bench/step.py measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from dskd_ds.bench.follow import Followed
from dskd_ds.bench.measure import Figure

Found = Mapping[str, Sequence[Followed]]
"""The measured launches of each arm, one per round."""


def figures(found: Found, tokens: int) -> list[Figure]:
    """Return the ratios of what `step.measure` found. tokens: number of tokens per step."""
    floor = _seconds(found["floor"][0])
    notes = {"floor": f"{floor:.3f} s a step: forward and backward without DeepSpeed"}
    return [
        sense_time(found, notes),
        sense_memory(found),
        _stream_time(found, notes),
        _replay_time(found),
        _loop(found, tokens, notes),
    ]


def sense_time(found: Found, notes: dict[str, str]) -> Figure:
    """Return the ratio of the seconds per step. notes: shown first."""
    ratios = _time_ratios(found, "sense", "kd")
    return Figure(
        key="sense_time_ratio",
        what="time per step: with the sense term / plain KD, one core each",
        value=statistics.median(ratios),
        target=1.03,
        better="lower",
        notes={**notes, **_time_notes(found, "sense", "kd")},
    )


def sense_memory(found: Found) -> Figure:
    """Return the ratio of the student's peak memory."""
    # From launches with LIVE_ALLOCATOR, where equal runs need equal memory; see bench/step.py.
    ratios = _ratios(found, "sense_memory", "kd_memory", lambda followed: followed.student_bytes)
    with_live_allocator = f"{_megabytes(found['sense_memory'])} / {_megabytes(found['kd_memory'])}"
    as_in_a_run = f"{_megabytes(found['sense'])} / {_megabytes(found['kd'])}"
    return Figure(
        key="sense_memory_ratio",
        what="the student's peak memory: with the sense term / plain KD",
        value=statistics.median(ratios),
        target=1.01,
        better="lower",
        notes={
            "megabytes": with_live_allocator,
            "ratios": _list(ratios),
            "megabytes as a run has them": as_in_a_run,
        },
    )


def _stream_time(found: Found, notes: dict[str, str]) -> Figure:
    ratios = _time_ratios(found, "kd", "bare")
    return Figure(
        key="stream_time_ratio",
        what="time per step: streamed top-k KD, live teacher / cross-entropy, no teacher",
        value=statistics.median(ratios),
        target=1.05,
        better="lower",
        notes={**notes, **_time_notes(found, "kd", "bare")},
    )


def _replay_time(found: Found) -> Figure:
    ratios = _time_ratios(found, "replay", "bare")
    return Figure(
        key="stream_replay_time_ratio",
        what="time per step: streamed top-k KD, replaying teacher / cross-entropy, no teacher",
        value=statistics.median(ratios),
        target=1.05,
        better="lower",
        notes=_time_notes(found, "replay", "bare"),
    )


def _loop(found: Found, tokens: int, notes: dict[str, str]) -> Figure:
    ratios = _time_ratios(found, "loop", "bare")
    loop_speed, bare_speed = _speed(found["loop"], tokens), _speed(found["bare"], tokens)
    return Figure(
        key="loop_ratio",
        what="tokens/s: this project's loop / a bare DeepSpeed loop, both with cross-entropy",
        value=1 / statistics.median(ratios),  # speeds are the inverse of times
        target=0.95,
        better="higher",
        notes={
            **notes,
            "tokens_per_second": f"{loop_speed:.0f} / {bare_speed:.0f}",
            **_time_notes(found, "loop", "bare"),
        },
    )


def _ratios(
    found: Found, arm: str, reference: str, value: Callable[[Followed], float]
) -> list[float]:
    """Return a value of one arm over the same value of another, round by round."""
    return [
        value(followed) / value(other)
        for followed, other in zip(found[arm], found[reference], strict=True)
    ]


def _time_ratios(found: Found, arm: str, reference: str) -> list[float]:
    """Return the seconds per step of one arm over another's, round by round."""
    return _ratios(found, arm, reference, _seconds)


def _time_notes(found: Found, arm: str, reference: str) -> dict[str, str]:
    """Return absolute times, the ratio of every round, and the ratio in the student's CPU time."""
    ratios = _time_ratios(found, arm, reference)
    # Another process on the core lengthens a step, but does not add to its CPU time.
    cpu_ratios = _ratios(found, arm, reference, _cpu_seconds)
    seconds, reference_seconds = (
        statistics.median(_seconds(followed) for followed in found[name])
        for name in (arm, reference)
    )
    num_steps = sum(len(followed.steps) for followed in found[arm])
    return {
        "seconds a step": f"{seconds:.3f} / {reference_seconds:.3f}",
        "runs and steps of each": f"{len(ratios)}, {num_steps}",
        "ratio of each round": _list(ratios),
        "ratio in the student's CPU time": (
            f"{statistics.median(cpu_ratios):.4f} ({_list(cpu_ratios)})"
        ),
    }


def _seconds(followed: Followed) -> float:
    """Return the median seconds per step."""
    return statistics.median(step.seconds for step in followed.steps)


def _cpu_seconds(followed: Followed) -> float:
    """Return the median CPU seconds per step of the student's process."""
    return statistics.median(step.cpu_seconds for step in followed.steps)


def _speed(launches: Sequence[Followed], tokens: int) -> float:
    """Return the median number of tokens per second. tokens: number of tokens per step."""
    return tokens / statistics.median(_seconds(followed) for followed in launches)


def _megabytes(launches: Sequence[Followed]) -> str:
    """Return the median of the student's peak memory as text."""
    student_bytes = statistics.median(followed.student_bytes for followed in launches)
    return f"{student_bytes / 1e6:.1f}"


def _list(values: Sequence[float]) -> str:
    """Return ratios as text."""
    return ", ".join(f"{value:.3f}" for value in values)
