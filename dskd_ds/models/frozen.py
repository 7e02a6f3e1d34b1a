"""A frozen model: trunk and head are separate, so that logits are formed only where needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dskd_ds.models.head import HeadForm, check_own_logits
from dskd_ds.models.layers import compile_layers
from dskd_ds.models.named import NamedModel
from dskd_ds.models.vocab_shard import VocabShard
from dskd_ds.runtime.devices import local_device, resolve_dtype
from dskd_ds.spec.models import HEAD_CHUNK_ROWS


@dataclass(frozen=True)
class FrozenModel:
    """A causal language model in inference."""

    trunk: Any
    """From ids and position ids to the last hidden state, after the final norm."""
    head: Tensor
    """[V, D], from a hidden state to logits, together with `form`; a shard has fewer rows."""
    form: HeadForm
    vocab_size: int
    """V: rows of the head that are used; for a teacher, those that the student has too."""
    hidden_size: int
    fingerprint: str
    """Weights (by samples), dtype, kind of device, compiled or not. What replies depend on to the
    last bit is in models/reply_identity.py."""
    device: torch.device
    head_chunk_rows: int = HEAD_CHUNK_ROWS
    """Positions whose logits exist at a time when requests are answered."""
    shard: VocabShard | None = None
    """What this rank holds of a model that is divided over ranks (models/tensor_parallel.py):
    `head` and `logits` are then those of its own tokens. None: the whole model is here."""

    @torch.inference_mode()
    def hidden_states(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return the states [B, T, D] for ids and position ids [B, T].

        A position of 0 begins a document; attention never crosses from one document to another.
        """
        output = self.trunk(
            input_ids=input_ids.to(self.device),
            position_ids=position_ids.to(self.device),
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    @torch.inference_mode()
    def states_of_layer(
        self, input_ids: Tensor, position_ids: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return the states [B, T, D] of one layer, and those [B, T, D] that the head reads.

        layer: -1 is the state that the head reads, 0 the embeddings, i the output of the i-th
        layer. These outputs are before the final norm, except that of the last layer, of which
        transformers keeps only the normalised state.
        """
        # Without output_hidden_states only the last state is kept in memory, not every layer's.
        if layer == -1:
            last = self.hidden_states(input_ids, position_ids)
            return last, last
        output = self.trunk(
            input_ids=input_ids.to(self.device),
            position_ids=position_ids.to(self.device),
            use_cache=False,
            output_hidden_states=True,
        )
        return output.hidden_states[layer], output.last_hidden_state

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [N, V] for hidden states [N, D]; with a shard, those of its rows."""
        return self.form.apply_(hidden @ self.head.T)


def load_frozen(
    named: NamedModel, device: torch.device | None = None, vocab_size: int | None = None
) -> FrozenModel:
    """Load a causal language model for inference.

    device: None takes this rank's. vocab_size: use only the rows of the first so many tokens
    (`RunModels.shared_vocab_size`); None: all rows.

    Raises InputError if the model cannot be found or its files lack weights, if its logits are not
    formed in a known way, or if it is to be compiled and its layers are not where `layers_of`
    looks.
    """
    device = device or local_device()
    dtype = resolve_dtype(named.dtype)
    model = named.load(dtype).to(device).eval().requires_grad_(False)
    if named.compiled:
        compile_layers(model, named.key)
    form = HeadForm.of(model.config.get_text_config())
    check_own_logits(model, form, named.name, named.key)
    head: Tensor = model.get_output_embeddings().weight
    dtype_name = str(dtype).removeprefix("torch.")
    fingerprint = f"{named.fingerprint}-{dtype_name}-{device.type}"
    if named.compiled:
        fingerprint += "-compiled"  # compiled layers round differently
    if vocab_size is not None and vocab_size < len(head):
        head, fingerprint = head[:vocab_size], f"{fingerprint}-{vocab_size}"
    return FrozenModel(
        trunk=model.base_model,
        head=head,
        form=form,
        vocab_size=len(head),
        hidden_size=model.config.get_text_config().hidden_size,
        fingerprint=fingerprint,
        device=device,
        head_chunk_rows=named.head_chunk_rows,
    )
