"""The losses on states below the head ([[loss.terms]]): which layers they compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.models.named import RunModels
from dskd_ds.spec import RunSpec
from dskd_ds.spec.terms import SENSE_KINDS, LayerTermSpec
from dskd_ds.student.depth import INIT_FOLDER, ORIGIN_FILE


@dataclass(frozen=True)
class LayerTerm:
    """A term of the loss, with both of its layers known."""

    spec: LayerTermSpec
    teacher_layer: int

    def key(self, beginning: str) -> str:
        """Return a key in metrics.jsonl. beginning: says what it is (observe/charts.py)."""
        return f"{beginning}{self.spec.student_layer}_{self.spec.kind}"


def layer_terms(spec: RunSpec, models: RunModels) -> tuple[LayerTerm, ...]:
    """Return the run's terms. Call it when the student has been cut.

    Raises InputError if a layer does not exist, or if it is not known which one is meant.
    """
    if not spec.loss.terms:
        return ()
    num_teacher = models.teacher.num_layers
    kept = kept_layers_of(spec, models)
    terms = []
    for index, term in enumerate(spec.loss.terms):
        where = section_of(index)
        if term.student_layer > len(kept):
            raise InputError(
                f"{where}student_layer = {term.student_layer}, but the student has {len(kept)}"
                f" layers.\n  use at most {len(kept)}."
            )
        refuse_frozen(spec, term, where, len(kept))
        target = term.teacher_layer or default_teacher_layer(kept, term.student_layer, num_teacher)
        if target > num_teacher:
            raise InputError(
                f"{where}teacher_layer = {target}, but the teacher has {num_teacher} layers.\n"
                f"  use at most {num_teacher}."
            )
        terms.append(LayerTerm(term, target))
    return tuple(terms)


def section_of(index: int) -> str:
    """Return how messages name a term, with a colon."""
    return f"[[loss.terms]] number {index + 1}: "


def refuse_frozen(spec: RunSpec, term: LayerTermSpec, where: str, num_layers: int) -> None:
    """Raise InputError if no weight below the term's state is trained: it would have no effect."""
    trained = spec.student.train_last_layers
    if trained is None or term.student_layer > num_layers - trained:
        return
    raise InputError(
        f"{where}student_layer = {term.student_layer}, but [student] train_last_layers = {trained}"
        f" trains none of the first {num_layers - trained} of {num_layers} layers.\n"
        f"  use at least {num_layers - trained + 1}, or train more layers."
    )


def kept_layers_of(spec: RunSpec, models: RunModels) -> list[int]:
    """Return the teacher's layers that the cut student keeps, from 0.

    Raises InputError if the student is a model of its own and a term names no teacher_layer.
    """
    student = models.student
    if student is None:
        origin = Path(spec.run_dir) / INIT_FOLDER / ORIGIN_FILE
        kept: list[int] = json.loads(origin.read_text(encoding="utf-8"))["kept_layers"]
        return kept
    if any(term.teacher_layer is None for term in spec.loss.terms):
        raise InputError(
            "[[loss.terms]]: the student was not cut from the teacher, so each term needs a"
            " teacher_layer.\n  give teacher_layer in each [[loss.terms]]."
        )
    return list(range(student.num_layers))


def default_teacher_layer(kept: Sequence[int], student_layer: int, num_teacher: int) -> int:
    """Return the teacher's layer whose output the next kept layer was made for.

    Without a gap behind it, that is the layer which the student's layer was cut from.
    """
    is_last = student_layer == len(kept)
    return num_teacher if is_last else kept[student_layer]


def teacher_layers_of(terms: Sequence[LayerTerm]) -> tuple[int, ...]:
    """Return the teacher's layers that the terms need, ascending, each once."""
    return tuple(sorted({term.teacher_layer for term in terms}))


def compared_layers_of(terms: Sequence[LayerTerm]) -> tuple[int, ...]:
    """Return the teacher's layers whose states themselves are targets, not senses chosen by them.

    Ascending, each once.
    """
    return teacher_layers_of([term for term in terms if compares_states(term.spec)])


def compares_states(term: LayerTermSpec) -> bool:
    """Whether a term compares with the teacher's states themselves, not with senses."""
    return term.kind not in SENSE_KINDS and not term.smoothing


def student_layers_of(terms: Sequence[LayerTerm]) -> tuple[int, ...]:
    """Return the student's layers that the terms need, ascending, each once."""
    return tuple(sorted({term.spec.student_layer for term in terms}))
