"""The cheapest changes of a spec with which a run fits into memory. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dskd_ds.costs.capacity import Capacity
from dskd_ds.costs.fit import device_of, needs
from dskd_ds.costs.memory import Device, student_memory
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.costs.zero_settings import zero_settings
from dskd_ds.spec import RunSpec

MAX_RANKS = 1 << 12
"""Most ranks that a way out proposes."""
RANKS_PER_TEACHER = (2, 4, 8)
"""Numbers of ranks that a teacher is tried to be divided over: within a node."""

Change = tuple[str, str, Callable[[RunSpec], RunSpec]]
"""What to set, what it costs, and the function that sets it."""


@dataclass(frozen=True)
class WayOut:
    """A change of the spec with which the student rank fits."""

    change: str
    """What to set."""
    cost: str
    """What it costs."""
    needed: float
    """Predicted bytes of a student rank afterwards."""


def ways_out(
    spec: RunSpec, shapes: RunShapes, capacity: Capacity, related_fraction: float | None = None
) -> list[WayOut]:
    """Return the changes of the spec with which everything fits, the cheapest first.

    Changes that are not enough one by one are tried together, in their order.
    """
    device = device_of(capacity)

    def fits(changed: RunSpec) -> bool:
        found = needs(changed, shapes, capacity, related_fraction)
        return not any(need.is_tight for need in found)

    found: list[WayOut] = []
    together, names = spec, []
    for change, cost, apply in _changes(spec, device):
        changed = apply(spec)
        if fits(changed):
            needed = student_memory(changed, shapes, device, related_fraction).total
            found.append(WayOut(change, cost, needed))
        together = apply(together)
        names.append(change)
        if not found and len(names) > 1 and fits(together):
            needed = student_memory(together, shapes, device, related_fraction).total
            found.append(WayOut("; ".join(names), "all of this together", needed))
    if device == "gpu":
        found += _more_ranks(spec, fits, shapes, device, related_fraction)
        found += _divided_teacher(spec, fits, shapes, device)
    return found


def _divided_teacher(
    spec: RunSpec, fits: Callable[[RunSpec], bool], shapes: RunShapes, device: Device
) -> Iterator[WayOut]:
    """Yield the fewest ranks per teacher with which everything fits, if there are any."""
    for ranks in RANKS_PER_TEACHER:
        changed = _set("topology", ranks_per_teacher=ranks)(spec)
        if ranks > spec.topology.ranks_per_teacher and fits(changed):
            needed = student_memory(changed, shapes, device).total
            cost = "more GPUs, and collectives in each of the teacher's layers"
            yield WayOut(f"[topology] ranks_per_teacher = {ranks}", cost, needed)
            return


def _changes(spec: RunSpec, device: Device) -> Iterator[Change]:
    """Yield changes of a spec that save memory, from cheap to expensive."""
    settings = zero_settings(spec.deepspeed)
    if spec.loss.chunk_positions > 64:
        yield (
            "[loss] chunk_positions = 64",
            "a slightly slower objective",
            _set("loss", chunk_positions=64),
        )
    if spec.train.micro_batch_blocks > 1:
        yield (
            "[train] micro_batch_blocks = 1",
            "more, smaller forward passes per step",
            _set("train", micro_batch_blocks=1),
        )
    if settings.stage < 3:
        file = "ds_configs/zero3.json" if device == "gpu" else "ds_configs/zero3_cpu.json"
        yield (
            f'deepspeed = "{file}"',
            "weights are gathered for each layer",
            _set_top(deepspeed=file),
        )
    if not spec.student.activation_checkpointing:
        yield (
            "[student] activation_checkpointing = true",
            "about a third more time",
            _set("student", activation_checkpointing=True),
        )
    if device == "gpu" and not settings.offloads_optimizer:
        yield (
            'deepspeed = "ds_configs/zero3_offload.json"',
            "slow updates on the CPU",
            _set_top(deepspeed="ds_configs/zero3_offload.json"),
        )
    half = spec.student.dtype in ("auto", "bfloat16") and device == "gpu"
    if half and spec.student.precision == "mixed":
        yield (
            '[student] precision = "bf16"',
            "small updates are lost to rounding",
            _set("student", precision="bf16"),
        )


def _set(section: str, **values: object) -> Callable[[RunSpec], RunSpec]:
    """Return a function that sets keys of a section in a copy of a spec."""

    def apply(spec: RunSpec) -> RunSpec:
        changed = getattr(spec, section).model_copy(update=values)
        return spec.model_copy(update={section: changed})

    return apply


def _set_top(**values: object) -> Callable[[RunSpec], RunSpec]:
    """Return a function that sets keys outside of sections in a copy of a spec."""
    return lambda spec: spec.model_copy(update=values)


def _more_ranks(
    spec: RunSpec,
    fits: Callable[[RunSpec], bool],
    shapes: RunShapes,
    device: Device,
    related_fraction: float | None,
) -> Iterator[WayOut]:
    """Yield the smallest doubled number of students with which everything fits."""
    ranks = 2 * spec.topology.num_students
    while ranks <= MAX_RANKS:
        changed = _set("topology", num_students=ranks)(spec)
        if fits(changed):
            needed = student_memory(changed, shapes, device, related_fraction).total
            yield WayOut(f"[topology] num_students = {ranks}", "more GPUs", needed)
            return
        ranks *= 2
