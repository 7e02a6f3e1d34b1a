"""Which tokens teacher and student share, where their heads have different numbers of rows.

Models of one family pad their vocabulary to different sizes (Qwen2.5: 151,936 rows up to 3B, 152,064 from 7B on; the tokenizer knows
151,665). The rows mean the same tokens as far as both have them. The teacher's probabilities are taken over those rows alone: what it
gives to rows that the student lacks is dealt to the others in proportion.
"""

from __future__ import annotations

from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.models.resolve import load_tokenizer, read_config, resolve_model, tokenizer_fingerprint
from dskd_ds.spec import RunSpec


def shared_vocab_size(spec: RunSpec) -> int:
    """The number of tokens that teacher and student both have a row for: the first so many of either head."""
    teacher = num_rows(resolve_model(spec.teacher.model))
    if spec.student.model is None:
        return teacher
    return min(
        teacher, num_rows(resolve_model(spec.student.model, "[student] model"), "[student] model")
    )


def num_rows(model: str, key: str = "[teacher] model") -> int:
    """Rows of a model's embedding and head."""
    return int(read_config(model, key).get_text_config().vocab_size)


def check_same_tokens(spec: RunSpec, teacher: str, student: str) -> None:
    """Teacher and student must mean the same by a token id, and each have a row for every token. Raises InputError by name."""
    tokenizer = load_tokenizer(teacher)
    if tokenizer_fingerprint(load_tokenizer(student)) != tokenizer_fingerprint(tokenizer):
        raise InputError(
            f'[student] model = "{spec.student.model}", but its vocabulary is not the teacher\'s ({spec.teacher.model}).\n'
            "  name a student with the teacher's tokenizer, or leave [student] model out to cut it from the teacher."
        )
    num_tokens = _num_tokens(tokenizer)
    rows = {
        "[teacher] model": num_rows(teacher),
        "[student] model": num_rows(student, "[student] model"),
    }
    for key, number in rows.items():
        if number < num_tokens:
            name = spec.teacher.model if key.startswith("[teacher]") else spec.student.model
            raise InputError(
                f'{key} = "{name}", but it has {number} rows for the {num_tokens} tokens of its tokenizer.\n'
                "  use the tokenizer that belongs to it, or another model."
            )
    if spec.loss.divergence == "reverse" and rows["[student] model"] > rows["[teacher] model"]:
        raise InputError(
            f'[loss] divergence = "reverse", but the student has {rows["[student] model"]} rows and the teacher only '
            f"{rows['[teacher] model']}: what the student gives to the others would be infinitely wrong.\n"
            '  set divergence = "forward" or "jensen_shannon".'
        )


def _num_tokens(tokenizer: Any) -> int:
    """One more than the highest token id."""
    return int(max(tokenizer.get_vocab().values())) + 1
