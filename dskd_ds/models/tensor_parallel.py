"""Loads a frozen model over several ranks: each holds a share of every layer and of the head.

Tensor parallelism as transformers plans it for each architecture (`base_model_tp_plan`): attention
by heads, the feed-forward part by its inner dimension, with an all-reduce after each. Embedding and
head are divided by tokens here too, because with a vocabulary of 262,144 they are a large share of
a model. Each rank reads its own part of every tensor from the files. DeepSpeed's AutoTP was not
taken, because there every rank loads the whole model first.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.models.head import HeadForm, check_own_logits
from dskd_ds.models.named import NamedModel
from dskd_ds.models.vocab_shard import RankShard
from dskd_ds.runtime.devices import local_device, resolve_dtype

DIVIDED_SIZES = {
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key-value heads",
    "intermediate_size": "inner dimensions of its feed-forward part",
    "vocab_size": "rows of its vocabulary",
}
"""Entries of a text configuration that the ranks divide, and what they count."""
EMBEDDING_STYLE, HEAD_STYLE = "embedding_rowwise", "colwise_gather_output"
"""transformers' names for a division by tokens; the head's output is gathered only by the model's
own forward, which is called once, for a check."""


def check_divisible(named: NamedModel, num_ranks: int, vocab_size: int) -> None:
    """Raise InputError if a model cannot be divided over so many ranks; reads no weights.

    vocab_size: rows of its vocabulary that are used.
    """
    if num_ranks == 1:
        return
    config = named.text_config
    if not getattr(config, "base_model_tp_plan", None):
        raise InputError(
            f"[topology] ranks_per_teacher = {num_ranks}, but transformers does not know how to"
            f" divide a model of type {config.model_type} over ranks (base_model_tp_plan).\n"
            "  set ranks_per_teacher = 1, or use a teacher of another architecture (Llama, Qwen,"
            " Mistral, Gemma ... can be divided)."
        )
    sizes = {entry: getattr(config, entry, None) for entry in DIVIDED_SIZES}
    counts = {entry: size for entry, size in sizes.items() if isinstance(size, int)}
    for entry, size in counts.items():
        if size % num_ranks:
            fitting = [n for n in range(1, num_ranks) if not any(s % n for s in counts.values())]
            raise InputError(
                f"[topology] ranks_per_teacher = {num_ranks}, but the teacher has {size}"
                f" {DIVIDED_SIZES[entry]} ({entry}), which {num_ranks} does not divide.\n"
                f"  use {' or '.join(map(str, fitting))}."
            )
    if vocab_size <= (num_ranks - 1) * (named.vocab_size // num_ranks):
        raise InputError(
            f"[topology] ranks_per_teacher = {num_ranks}, but of the {named.vocab_size} rows of the"
            f" teacher's vocabulary the student has only the first {vocab_size}, so the last rank"
            " would have none.\n  use fewer ranks, or another student."
        )


def load_divided(named: NamedModel, vocab_size: int) -> FrozenModel:
    """Load this rank's share of a model for inference. Collective in this process's torch world.

    The result's `hidden_states` are collective too; its `head` and `logits` are those of this
    rank's tokens, which `shard` names. vocab_size: use only the rows of the first so many tokens.

    Raises InputError as `load_frozen` does.
    """
    from transformers.distributed.configuration_utils import DistributedConfig

    num_ranks, rank = dist.get_world_size(), dist.get_rank()
    device, dtype = local_device(), resolve_dtype(named.dtype)
    config = DistributedConfig(tp_size=num_ranks, tp_plan=_plan_of_vocabulary(named))
    model = named.load(dtype, distributed_config=config).eval().requires_grad_(False)
    form = HeadForm.of(model.config.get_text_config())
    rows_per_rank = named.vocab_size // num_ranks
    first = rank * rows_per_rank
    shard = RankShard(first=first, vocab_size=vocab_size)
    head: Tensor = model.get_output_embeddings().weight.to_local()

    def gathered_product(hidden: Tensor) -> Tensor:
        return torch.cat(shard.all_gather(hidden @ head.T), dim=-1)

    check_own_logits(model, form, named.name, named.key, gathered_product)
    # Rows of padding that the student lacks belong to the last ranks.
    num_rows = min(max(vocab_size - first, 0), rows_per_rank)
    dtype_name = str(dtype).removeprefix("torch.")
    return FrozenModel(
        trunk=model.base_model,
        head=head[:num_rows],
        form=form,
        vocab_size=vocab_size,
        hidden_size=model.config.get_text_config().hidden_size,
        fingerprint=f"{named.fingerprint}-{dtype_name}-{device.type}-ranks{num_ranks}",
        device=device,
        head_chunk_rows=named.head_chunk_rows,
        shard=shard,
    )


def _plan_of_vocabulary(named: NamedModel) -> dict[str, str]:
    """Return the styles of embedding and head, under their names in this architecture."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # no weights are allocated
        empty: Any = AutoModelForCausalLM.from_config(copy.deepcopy(named.config))
    styles = {
        id(empty.get_input_embeddings()): EMBEDDING_STYLE,
        id(empty.get_output_embeddings()): HEAD_STYLE,
    }
    return {
        name: styles[id(module)] for name, module in empty.named_modules() if id(module) in styles
    }
