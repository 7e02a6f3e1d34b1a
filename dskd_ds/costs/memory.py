"""Memory of a student rank, of a teacher rank and of a node, by formulas. Loads no torch.

A rank's memory is what it always holds, and the largest of what its phases add: the backward pass,
the reduction of gradients, and the update. The formulas follow DeepSpeed 0.19.8's ZeRO and this
project's objective; `tools/validate_plan.py` compares them with measured runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from dskd_ds.costs.activations import activation_bytes, forward_bytes
from dskd_ds.costs.dictionary_size import rows_of_dictionary
from dskd_ds.costs.related import known_related_fraction
from dskd_ds.costs.run_shapes import RunShapes
from dskd_ds.costs.shapes import ModelShape
from dskd_ds.costs.terms import term_dictionaries
from dskd_ds.costs.traffic import (
    SignalBytes,
    held_bytes,
    sense_share,
    signal_bytes,
    teacher_held_bytes,
)
from dskd_ds.costs.zero_memory import zero_memory
from dskd_ds.costs.zero_settings import zero_settings
from dskd_ds.runtime.cpu_features import cpu_has_bfloat16
from dskd_ds.spec import RunSpec
from dskd_ds.spec.base import Dtype

Device = Literal["gpu", "cpu"]
"""Where ranks compute. On a CPU their memory is the node's main memory."""
CHUNK_BYTES = 16
"""Bytes per token of the vocabulary and position of a chunk that a teacher takes its signal from
([teacher] head_chunk_rows)."""
ASSUMED_RELATED_FRACTION = 0.6
"""Share of positions whose target has word relations, if no dictionary tells it: SmolLM2 with
WordNet on Wikipedia has 0.5 to 0.7."""
LIBRARY_BYTES = 100 << 20
"""What libraries take on a CPU from the moment when the engine is made: 77 to 112 MiB beyond what
the formulas give for an engine that has taken no step (three runs)."""
HEAP_SHARE = 0.6
"""Freed memory that the heap of a CPU rank keeps in pieces, as a share of what is in use, with the
allocator settings of runtime/console.py: 0.72 and 0.55 in two runs with 42 and 99 million
parameters. With an allocator that returns memory at once it is 0."""
INDEX_LINK_BYTES = 12
"""Bytes per sense and link of the HNSW index: 2 M links of 4 bytes on the lowest level, and the
higher levels'."""


@dataclass(frozen=True)
class MemoryParts:
    """Bytes by kind at the moment when a rank holds most."""

    parts: Mapping[str, float]
    """On the device of the rank; on a CPU all of its memory."""
    phase: str
    """When that is."""
    host: Mapping[str, float] = field(default_factory=dict)
    """In the node's main memory beside a GPU: what is offloaded."""

    @property
    def total(self) -> float:
        """Bytes on the device."""
        return sum(self.parts.values())

    @property
    def host_total(self) -> float:
        """Bytes in main memory beside the device."""
        return sum(self.host.values())


def number_bytes(dtype: Dtype, device: Device) -> int:
    """Return the bytes of a number; `auto` is resolved as runtime/devices.py does."""
    if dtype == "auto":
        return 2 if device == "gpu" or cpu_has_bfloat16() else 4
    return 4 if dtype == "float32" else 2


def student_memory(
    spec: RunSpec, shapes: RunShapes, device: Device, related_fraction: float | None = None
) -> MemoryParts:
    """Return the memory of a student rank. related_fraction: as `run_signal` takes it."""
    student = shapes.student
    width = number_bytes(spec.student.dtype, device)
    trained_layers = min(spec.student.train_last_layers or student.num_layers, student.num_layers)
    settings = zero_settings(spec.deepspeed)
    zero = zero_memory(
        settings,
        student,
        num_ranks=spec.topology.num_students,
        number_bytes=width,
        is_bf16_only=spec.student.precision == "bf16",
        trained_layers=trained_layers,
        trains_outer=spec.student.trains_outer,
        map_parameters=_map_parameters(spec, shapes),
        on_gpu=device == "gpu",
    )
    activations = activation_bytes(
        student,
        rows=spec.train.micro_batch_blocks,
        row_tokens=spec.data.block_tokens,
        number_bytes=width,
        trained_layers=trained_layers,
        checkpointing=spec.student.activation_checkpointing,
        packed=spec.data.packing == "blocks",
    )
    signal = run_signal(spec, shapes, related_fraction)
    held = held_bytes(spec, signal, shapes.teacher.hidden_size, spec.data.block_tokens)
    fixed = {**zero.fixed, "teacher's signal": held, "teacher's head": _head_copy(spec, shapes)}
    gathered = {"gathered layers": zero.gathered}
    kept = {"activations": activations.kept + activations.states}
    phases = {
        "objective": {
            **gathered,
            **kept,
            "objective": _objective_bytes(spec, shapes, width, device),
        },
        "backward pass": {
            **gathered,
            "activations": activations.kept + activations.states + activations.backward,
            "objective": _head_gradient(spec, student.embedding_parameters, width),
        },
        # The layers are done; with a tied head its gradient waits for the embedding's.
        "embedding": {
            **gathered,
            "activations": activations.states,
            "objective": _embedding_gradients(spec, student, width),
        },
        "reduction": {"gradient copies": zero.reduction},
        "update": {"gradient copies": zero.update},
    }
    phase, added = max(phases.items(), key=_size_of_phase)
    parts = _without_zeros({**fixed, **added})
    if device == "cpu":
        parts["libraries"] = float(LIBRARY_BYTES)
        parts["freed, kept by the heap"] = HEAP_SHARE * sum(parts.values())
    return MemoryParts(parts, phase, host=_without_zeros(zero.host))


def teacher_memory(
    spec: RunSpec, shapes: RunShapes, device: Device, related_fraction: float | None = None
) -> MemoryParts:
    """Return the memory of a teacher rank. related_fraction: as `run_signal` takes it.

    Several ranks share the weights and the logits of a teacher. Their activations are taken to be
    whole on each of them, which is an upper bound.
    """
    teacher, ranks = shapes.teacher, spec.topology.ranks_per_teacher
    width = number_bytes(spec.teacher.dtype, device)
    forward = forward_bytes(
        teacher,
        rows=spec.train.micro_batch_blocks,
        row_tokens=spec.data.block_tokens,
        number_bytes=width,
    )
    signal = run_signal(spec, shapes, related_fraction)
    logits = spec.teacher.head_chunk_rows * teacher.vocab_size * CHUNK_BYTES
    parts = {
        "parameters": width * teacher.num_parameters / ranks,
        "activations": forward,
        "logits": logits / ranks,
        "replies": teacher_held_bytes(spec, signal, spec.data.block_tokens),
    }
    return MemoryParts(_without_zeros(parts), "forward pass")


def further_teacher_memory(
    spec: RunSpec, shapes: RunShapes, device: Device, index: int
) -> MemoryParts:
    """Return the memory of a rank of one of [[teachers]]. index: its place among them."""
    own_shapes = replace(shapes, teacher=shapes.further_teachers[index])
    return teacher_memory(spec.for_teacher(spec.teachers[index]), own_shapes, device)


def node_memory(spec: RunSpec, shapes: RunShapes, num_senses: int | None = None) -> MemoryParts:
    """Return what a node with a role that chooses senses holds once: dictionaries and indexes.

    num_senses: of the sense term's dictionary; None estimates it from the text that it is to be
    built from. The other dictionaries are those of losses below the head.
    """
    senses, estimated = spec.senses, estimated_senses(spec, shapes)
    num_mapped = num_indexed = 0
    if spec.uses_senses:
        num_mapped = estimated if num_senses is None else num_senses
        num_indexed = 0 if senses.candidates == "lexical" else num_mapped
    for folder, is_searched in term_dictionaries(spec).items():
        num_rows = rows_of_dictionary(folder) or estimated
        num_mapped += num_rows
        num_indexed += num_rows if is_searched else 0
    per_mapped = 2 * shapes.teacher.hidden_size + 16
    per_indexed = 4 * senses.index_dims + senses.index_links * INDEX_LINK_BYTES
    parts = {
        "senses (mapped from disk)": float(num_mapped * per_mapped),
        "index": float(num_indexed * per_indexed),
    }
    return MemoryParts(_without_zeros(parts), "always")


def estimated_senses(spec: RunSpec, shapes: RunShapes) -> int:
    """Return an upper bound of the senses of a dictionary that is not built yet.

    No token has more than `num_senses`, nor more senses than the teacher reads tokens of text.
    """
    most = shapes.teacher.vocab_size * spec.senses.num_senses
    collected = sum(
        text.collect_tokens or spec.senses.collect_tokens for text in spec.senses.corpus
    )
    return min(most, collected or spec.senses.collect_tokens)


def run_signal(
    spec: RunSpec, shapes: RunShapes, related_fraction: float | None = None
) -> SignalBytes:
    """Return the bytes per token that a run's teacher sends.

    related_fraction: share of positions whose target has word relations; None takes that of the
    run's dictionary, or an assumed one if it is not built yet.
    """
    if related_fraction is None:
        related_fraction = known_related_fraction(spec)
    if related_fraction is None:
        related_fraction = ASSUMED_RELATED_FRACTION
    share = sense_share(spec, related_fraction)
    vocab_size = min(shapes.teacher.vocab_size, shapes.student.vocab_size)
    return signal_bytes(spec, vocab_size, shapes.teacher.hidden_size, share)


def _map_parameters(spec: RunSpec, shapes: RunShapes) -> int:
    """Return the weights of all maps between two hidden sizes; 0 if there are none."""
    if not shapes.has_map:
        return 0
    num_maps = int(spec.uses_senses) + sum(term.kind != "gram" for term in spec.loss.terms)
    return num_maps * shapes.teacher.hidden_size * shapes.student.hidden_size


def _head_copy(spec: RunSpec, shapes: RunShapes) -> float:
    """Return the bytes of the teacher's head that each student keeps for the signal `exact`."""
    if spec.loss.signal != "exact":
        return 0.0
    width = 4 if spec.teacher.dtype == "float32" else 2
    return float(width * shapes.teacher.embedding_parameters)


def _objective_bytes(spec: RunSpec, shapes: RunShapes, width: int, device: Device) -> float:
    """Return the workspace of the objective: a chunk's logits, gradients by weight and states.

    Logits are float32. In a half format the product and the gradient exist in that format too. On a
    CPU a chunk is worked on in blocks of 32 rows; on a GPU whole, so further copies of the chunk
    exist: at a temperature of its own, and of the teacher's logits.
    """
    loss, student = spec.loss, shapes.student
    chunk = loss.chunk_positions * student.vocab_size
    logits = chunk * 4.0
    if width == 2:
        logits += chunk * width
    if loss.signal == "exact":
        teacher_width = number_bytes(spec.teacher.dtype, device)
        logits += chunk * (4 + (teacher_width if teacher_width == 2 else 0))
    if device == "gpu":
        num_copies = 1 + (loss.temperature != 1) + (loss.signal == "exact")
        logits += chunk * 4 * num_copies
    tokens = spec.train.micro_batch_blocks * spec.data.block_tokens
    by_states = tokens * student.hidden_size * width
    by_weight = _head_gradient(spec, student.embedding_parameters, width=4)
    return logits + by_states + by_weight


def _head_gradient(spec: RunSpec, head_parameters: int, width: int) -> float:
    """Return the gradient by the head: float32, and once more in a half format."""
    if not spec.student.trains_outer:
        return 0.0
    return float(head_parameters * (4 + (width if width == 2 else 0)))


def _embedding_gradients(spec: RunSpec, student: ModelShape, width: int) -> float:
    """Return the gradients by the embedding: its own, that by a tied head, and their sum.

    torch's memory tracker shows all three at once (plan/fake_student.py).
    """
    if not spec.student.trains_outer:
        return 0.0
    return float(student.embedding_parameters * width * (3 if student.tied else 1))


def _size_of_phase(phase: tuple[str, Mapping[str, float]]) -> float:
    return sum(phase[1].values())


def _without_zeros(parts: Mapping[str, float]) -> dict[str, float]:
    return {kind: size for kind, size in parts.items() if size}
