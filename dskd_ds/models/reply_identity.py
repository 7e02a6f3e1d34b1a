"""What a teacher's replies depend on besides their requests, as one text: its fingerprint.

Two teachers with the same fingerprint send the same replies, bit for bit, on the same kind of
machine with the same libraries and number of threads. It is computed without loading the weights,
so that a student without a teacher finds kept replies too.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.runtime.devices import local_device, resolve_dtype
from dskd_ds.spec import RunSpec


def reply_fingerprint(spec: RunSpec, models: RunModels, device_type: str | None = None) -> str:
    """Return the fingerprint of this run's teacher, without senses that the teacher may choose.

    device_type: of the teacher; None takes this machine's. Raises InputError if the teacher's
    files cannot be read.
    """
    device_type = device_type or local_device().type
    dtype = resolve_dtype(spec.teacher.dtype)
    facts = [
        models.teacher.weights_digest,
        str(dtype).removeprefix("torch."),
        device_type,
        attention_kernel(models.teacher),
        str(models.shared_vocab_size),
        # The number of rows of a matrix product decides how it rounds.
        f"rows{spec.teacher.head_chunk_rows}",
    ]
    if spec.teacher.compile:
        facts.append("compiled")  # compiled layers round differently
    if spec.topology.ranks_per_teacher > 1:
        facts.append(f"ranks{spec.topology.ranks_per_teacher}")  # sums are rounded rank by rank
    return "-".join(facts)


def attention_kernel(model: NamedModel) -> str:
    """Return the attention that transformers chooses for a model: "sdpa", "eager", ..."""
    from transformers import AutoModelForCausalLM

    # It is known only once the model is built. On the meta device no memory is taken.
    with torch.device("meta"):
        built: Any = AutoModelForCausalLM.from_config(copy.deepcopy(model.config))
    return str(built.config.get_text_config()._attn_implementation)
