"""Checks [[teachers]] before a run starts, and says what each of them is asked about."""

from __future__ import annotations

from dskd_ds.errors import InputError
from dskd_ds.models.layers import check_layers
from dskd_ds.models.named import RunModels
from dskd_ds.models.routed import RoutedTeacher, further_teachers
from dskd_ds.models.tensor_parallel import check_divisible
from dskd_ds.models.vocabulary import check_same_tokens
from dskd_ds.spec import RunSpec


def check_further_teachers(spec: RunSpec, models: RunModels) -> None:
    """Raise InputError if one of [[teachers]] cannot serve the run."""
    for teacher in further_teachers(spec, models):
        own = teacher.models
        _check_tokenizer(teacher, models)
        # Under its own spec the student's vocabulary is compared with this teacher's.
        assert own.student is not None
        check_same_tokens(own.teacher, own.student, spec.loss.divergence)
        check_divisible(own.teacher, spec.topology.ranks_per_teacher, own.shared_vocab_size)
        if own.teacher.compiled:
            check_layers(own.teacher)
        _check_length(spec, teacher, models)


def _check_tokenizer(teacher: RoutedTeacher, models: RunModels) -> None:
    """Raise InputError if a teacher has another vocabulary than [teacher]."""
    model = teacher.models.teacher
    if model.tokenizer_fingerprint != models.teacher.tokenizer_fingerprint:
        raise InputError(
            f'{model.key} = "{model.name}", but its vocabulary is not that of [teacher]'
            f" ({models.teacher.name}).\n"
            "  name a teacher with the same tokenizer: one text is tokenised once for all."
        )


def _check_length(spec: RunSpec, teacher: RoutedTeacher, models: RunModels) -> None:
    """Raise InputError if blocks or rows may be longer than a teacher reads."""
    limit = teacher.models.teacher.max_tokens
    if limit is None:
        return
    name = f"the teacher {teacher.name} reads at most {limit} tokens"
    if spec.data.block_tokens > limit:
        raise InputError(
            f"[data] block_tokens = {spec.data.block_tokens}, but {name}.\n"
            f"  use at most {limit}, or another teacher."
        )
    longest = models.max_tokens
    if spec.data.packing == "none" and (longest is None or longest > limit):
        raise InputError(
            f'[data] packing = "none" gives rows that [teacher] and the student read, but {name}.\n'
            '  name another teacher, or set packing = "blocks".'
        )


def further_lines(spec: RunSpec) -> list[str]:
    """Return a line per teacher of [[teachers]] about its text, replicas and weight."""
    lines: list[str] = []
    for teacher in spec.teachers:
        sources = [source.path for source in spec.data.train if source.teacher == teacher.name]
        replicas = "1 replica" if teacher.replicas == 1 else f"{teacher.replicas} replicas"
        lines.append(
            f"teacher {teacher.name}: {teacher.model}, {replicas}, weight {teacher.weight:g},"
            f" asked about {', '.join(sources)}"
        )
    return lines
