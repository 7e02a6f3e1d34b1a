"""Checks that teacher and student mean the same tokens, though their heads may differ in size.

Models of one family pad their vocabulary to different sizes (Qwen2.5: 151,936 rows up to 3B,
152,064 from 7B on; the tokenizer knows 151,665). The rows that both models have mean the same
tokens. The teacher's probabilities are taken over those rows alone: the share of rows that the
student lacks is distributed over the others in proportion.
"""

from __future__ import annotations

from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.models.named import NamedModel
from dskd_ds.spec.loss import Divergence


def check_same_tokens(teacher: NamedModel, student: NamedModel, divergence: Divergence) -> None:
    """Check that both models give a token id the same meaning and have a row for every token.

    Raises InputError that names the model at fault, or the divergence if it does not allow the
    student more rows than the teacher has.
    """
    if student.tokenizer_fingerprint != teacher.tokenizer_fingerprint:
        raise InputError(
            f'{student.key} = "{student.name}", but its vocabulary is not the teacher\'s'
            f" ({teacher.name}).\n  name a student with the teacher's tokenizer, or leave"
            " [student] model out to cut it from the teacher."
        )
    num_tokens = _num_tokens(teacher.tokenizer)  # equal for both, by the check above
    for model in (teacher, student):
        if model.vocab_size < num_tokens:
            raise InputError(
                f'{model.key} = "{model.name}", but it has {model.vocab_size} rows for the'
                f" {num_tokens} tokens of its tokenizer.\n"
                "  use the tokenizer that belongs to it, or another model."
            )
    if divergence == "reverse" and student.vocab_size > teacher.vocab_size:
        raise InputError(
            f'[loss] divergence = "reverse", but the student has {student.vocab_size} rows and the'
            f" teacher only {teacher.vocab_size}: the probability that the student gives to the"
            " other rows would cost an infinite loss.\n"
            '  set divergence = "forward" or "jensen_shannon".'
        )


def _num_tokens(tokenizer: Any) -> int:
    """Return one more than the highest token id; ids can have gaps, so `len` could be too small."""
    return int(max(tokenizer.get_vocab().values())) + 1
