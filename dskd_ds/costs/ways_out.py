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
from dskd_ds.spec.rules import check_rules

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
    spec: RunSpec,
    shapes: RunShapes,
    capacity: Capacity,
    related_fraction: float | None = None,
    num_senses: int | None = None,
) -> list[WayOut]:
    """Return the changes of the spec with which everything fits, the cheapest first.

    Changes that are not enough one by one are tried together, in their order. A change after which
    the run would be refused is left out. related_fraction, num_senses: as `needs` takes them.
    """
    device = device_of(capacity)

    def fits(changed: RunSpec) -> bool:
        if not is_valid(changed):
            return False
        found = needs(changed, shapes, capacity, related_fraction, num_senses)
        return not any(need.is_tight for need in found)

    def way_out(change: str, cost: str, changed: RunSpec) -> WayOut:
        needed = student_memory(changed, shapes, device, related_fraction).total
        return WayOut(change, cost, needed)

    found: list[WayOut] = []
    together = spec
    names: dict[str, str] = {}
    """Key -> change. A second DeepSpeed file replaces the first."""
    for change, cost, apply in _changes(spec, device):
        if fits(apply(spec)):
            found.append(way_out(change, cost, apply(spec)))
        if not is_valid(apply(together)):
            continue
        together = apply(together)
        names[change.partition(" = ")[0]] = change
        if not found and len(names) > 1 and fits(together):
            found.append(way_out("; ".join(names.values()), "all of this together", together))
    if device == "gpu":
        for changes in (_more_students(spec), _divided_teacher(spec, shapes, capacity)):
            for change, cost, apply in changes:
                if fits(apply(spec)):
                    found.append(way_out(change, cost, apply(spec)))
                    break
    return found


def is_valid(spec: RunSpec) -> bool:
    """Return whether a changed spec would be accepted, by its rules and by student/ds_config.py."""
    if next(check_rules(spec), None) is not None:
        return False
    settings, num_students = zero_settings(spec.deepspeed), spec.topology.num_students
    has_equal_groups = num_students % min(max(settings.hpz_ranks, 1), num_students) == 0
    return has_equal_groups and (settings.stage > 0 or spec.student.precision == "mixed")


def _divided_teacher(spec: RunSpec, shapes: RunShapes, capacity: Capacity) -> Iterator[Change]:
    """Yield divisions of the teachers over more ranks of a node, the fewest ranks first."""
    cost = "more GPUs, and collectives in each of the teacher's layers"
    for ranks in RANKS_PER_TEACHER:
        is_more = spec.topology.ranks_per_teacher < ranks <= capacity.num_gpus
        if not spec.asks_teachers or not is_more or not _can_be_divided(shapes, ranks):
            continue
        divide = _set("topology", ranks_per_teacher=ranks)
        change = f"[topology] ranks_per_teacher = {ranks}"
        if spec.teacher.compile:
            change += "; [teacher] compile = false"
            divide = _both(divide, _set("teacher", compile=False))
        yield change, cost, divide


def _can_be_divided(shapes: RunShapes, ranks: int) -> bool:
    """Return whether each teacher's sizes divide, as models/tensor_parallel.py demands."""
    for teacher in (shapes.teacher, *shapes.further_teachers):
        sizes = (teacher.num_heads, teacher.num_kv_heads, teacher.intermediate_size)
        if any(size % ranks for size in (*sizes, teacher.vocab_size)):
            return False
        if shapes.student.vocab_size <= (ranks - 1) * (teacher.vocab_size // ranks):
            return False  # the last rank would have no token that the student knows
    return True


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
            '[student] precision = "bf16", dtype = "bfloat16"',
            "small updates are lost to rounding",
            _set("student", precision="bf16", dtype="bfloat16"),
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


def _both(
    first: Callable[[RunSpec], RunSpec], second: Callable[[RunSpec], RunSpec]
) -> Callable[[RunSpec], RunSpec]:
    """Return a function that makes two changes."""
    return lambda spec: second(first(spec))


def _more_students(spec: RunSpec) -> Iterator[Change]:
    """Yield doubled numbers of students; where it matters, with the smallest micro-batch too."""
    ranks = 2 * spec.topology.num_students
    while ranks <= MAX_RANKS:
        change, more = f"[topology] num_students = {ranks}", _set("topology", num_students=ranks)
        yield change, "more GPUs", more
        if spec.train.micro_batch_blocks > 1:
            smaller = _set("train", micro_batch_blocks=1)
            both = f"{change}; [train] micro_batch_blocks = 1"
            yield both, "more GPUs, smaller forward passes", _both(more, smaller)
        ranks *= 2
