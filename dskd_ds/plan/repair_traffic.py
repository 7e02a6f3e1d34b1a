"""Computes the bytes of the repair's states per token, before the student is cut."""

from __future__ import annotations

from dskd_ds.costs.traffic import POSITION_BYTES, REQUEST_TOKEN_BYTES
from dskd_ds.models.named import NamedModel
from dskd_ds.signals.widths import states_bytes
from dskd_ds.spec import RunSpec
from dskd_ds.student.repair.blocks import repair_blocks, teacher_layers


def repair_line(spec: RunSpec, teacher: NamedModel) -> str | None:
    """Describe in one line what the teacher sends while the student is repaired; None without it.

    With layers = "by_impact" the layers are not known yet, and the bytes are an upper bound.
    """
    if not spec.repair.steps:
        return None
    num_states, is_exact = _num_states(spec, teacher.num_layers)
    per_state = states_bytes(spec.link.hidden_format, teacher.hidden_size)
    total = REQUEST_TOKEN_BYTES + POSITION_BYTES + num_states * per_state
    bound = "" if is_exact else "at most "
    return (
        f"repair: {spec.repair.steps} steps before training; states of {bound}{num_states} layers ="
        f" {total:,} bytes per token"
    )


def _num_states(spec: RunSpec, num_layers: int) -> tuple[int, bool]:
    """Return how many states of the teacher the repair needs, and whether that is exact."""
    student = spec.student
    kept = list(student.keep_layers)
    if student.layers == "first":
        kept = list(range(student.num_layers or num_layers))
    if kept:
        return len(teacher_layers(repair_blocks(kept, num_layers, spec.repair.side))), True
    num_kept = student.num_layers or num_layers
    num_gaps = min(num_layers - num_kept, num_kept + 1)
    return min(2 * num_gaps, num_layers + 1), False
