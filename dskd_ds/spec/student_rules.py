"""Rules about how a student is made from its teacher's layers, one function per rule."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.problems import Problem
from dskd_ds.spec.sections import RunSections


def own_model_keeps_all_layers(spec: RunSections) -> Iterator[Problem]:
    """Layers are chosen only if the student is cut from the teacher."""
    student = spec.student
    if student.model is not None and student.layers != "all":
        yield Problem(
            key="student.layers",
            value=student.layers,
            reason="it has no effect if [student] model names a model",
            way_out="remove [student] layers or [student] model",
        )


def impact_needs_whole_corpus(spec: RunSections) -> Iterator[Problem]:
    """`by_impact` measures layers on random blocks of the corpus; a stream is read in order."""
    if spec.data.stream and spec.student.layers == "by_impact":
        yield Problem(
            key="student.layers",
            value="by_impact",
            reason="layers are measured on blocks drawn over the whole corpus,"
            " and [data] stream = true",
            way_out="set [data] stream = false, or name the layers",
        )


def chosen_layers_are_given(spec: RunSections) -> Iterator[Problem]:
    """`first` and `by_impact` need `num_layers`; `list` needs `keep_layers`."""
    student = spec.student
    if student.layers in ("first", "by_impact") and student.num_layers is None:
        yield Problem(
            key="student.num_layers",
            value=None,
            reason=f'layers = "{student.layers}" needs a number of layers',
            way_out="give [student] num_layers",
        )
    if student.layers == "list" and not student.keep_layers:
        yield Problem(
            key="student.keep_layers",
            value=(),
            reason='layers = "list" needs the list',
            way_out="give [student] keep_layers",
        )


def layer_keys_have_an_effect(spec: RunSections) -> Iterator[Problem]:
    """`num_layers` and `keep_layers` may be given only where `layers` uses them."""
    student = spec.student
    # Ignored silently, such a key would look as if it had chosen the layers.
    if student.keep_layers and student.layers != "list":
        yield Problem(
            key="student.keep_layers",
            value=student.keep_layers,
            reason=f'it has no effect with layers = "{student.layers}"',
            way_out='set [student] layers = "list", or remove keep_layers',
        )
    if student.num_layers is not None and student.layers not in ("first", "by_impact"):
        yield Problem(
            key="student.num_layers",
            value=student.num_layers,
            reason=f'it has no effect with layers = "{student.layers}"',
            way_out='set [student] layers = "first" or "by_impact", or remove num_layers',
        )


def kept_layers_ascend(spec: RunSections) -> Iterator[Problem]:
    """The list of layers is in ascending order and without repeats."""
    kept = spec.student.keep_layers
    ascending = sorted(set(kept))
    if list(kept) != ascending:
        yield Problem(
            key="student.keep_layers",
            value=kept,
            reason="it is not in ascending order without repeats",
            way_out=f"write {ascending}",
        )


def bf16_precision_has_bfloat16(spec: RunSections) -> Iterator[Problem]:
    """Weights without a float32 copy are bfloat16; `auto` may be another format elsewhere."""
    student = spec.student
    if student.precision == "bf16" and student.dtype != "bfloat16":
        yield Problem(
            key="student.precision",
            value="bf16",
            reason=f'dtype = "{student.dtype}" is another number format',
            way_out='set [student] dtype = "bfloat16", or precision = "mixed"',
        )


def repair_needs_a_cut(spec: RunSections) -> Iterator[Problem]:
    """Only a student that lacks layers of its teacher can be repaired."""
    if spec.repair.steps == 0:
        return
    if spec.student.model is not None or spec.student.layers == "all":
        yield Problem(
            key="repair.steps",
            value=spec.repair.steps,
            reason="the student is not cut from the teacher",
            way_out='set [repair] steps = 0, or [student] layers = "by_impact", "first" or "list"',
        )


STUDENT_RULES = (
    own_model_keeps_all_layers,
    impact_needs_whole_corpus,
    chosen_layers_are_given,
    kept_layers_ascend,
    layer_keys_have_an_effect,
    bf16_precision_has_bfloat16,
    repair_needs_a_cut,
)
