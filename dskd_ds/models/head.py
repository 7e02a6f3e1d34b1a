"""From a last hidden state to logits, for teacher and student alike: the head's product, what some models do to it, and whether
a model's own forward does the same.

Cohere multiplies the product by a factor, Granite divides it by one, Gemma bends it with a soft cap: `cap * tanh(x / cap)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dskd_ds.errors import InputError

SAME_LOGITS = 0.01
"""How far a model's own logits may be from ours, as a share of the largest: two ways to round one product differ by less."""


@dataclass(frozen=True)
class HeadForm:
    """What turns the product of hidden state and head weight into logits."""

    scale: float = 1.0
    softcap: float | None = None

    @staticmethod
    def of(config: Any) -> HeadForm:
        """The form of a model with this text configuration (transformers)."""
        scale = float(getattr(config, "logit_scale", None) or 1.0) * float(
            getattr(config, "lm_head_multiplier", None) or 1.0
        )
        scaling = float(getattr(config, "logits_scaling", None) or 1.0)
        # Granite divides by the number that HyperCLOVA X multiplies with, under the same name.
        scale = (
            scale * scaling if str(config.model_type).startswith("hyperclovax") else scale / scaling
        )
        return HeadForm(scale, getattr(config, "final_logit_softcapping", None))

    def apply_(self, product: Tensor) -> Tensor:
        """Turn the product [..., V] into logits, in place."""
        if self.scale != 1.0:
            product.mul_(self.scale)
        if self.softcap is not None:
            product.div_(self.softcap).tanh_().mul_(self.softcap)
        return product

    def slope(self, logits: Tensor) -> Tensor | None:
        """Derivative of the soft cap [..., V] where it gave `logits`; None if there is no cap. `scale` is left to the caller."""
        if self.softcap is None:
            return None
        return (logits / self.softcap).square_().neg_().add_(1.0)


PLAIN = HeadForm()
"""Logits are the product."""


@dataclass(frozen=True)
class FrozenHead:
    """A head that is not trained: the teacher's, copied to the students for signal `exact`."""

    weight: Tensor
    """[V, D]"""
    form: HeadForm = PLAIN


def refuse_bias(head: Any, key: str) -> None:
    """Raise InputError if an LM head has a bias: neither the objective nor a frozen copy of the head knows it."""
    if getattr(head, "bias", None) is not None:
        raise InputError(
            f"{key}: its LM head has a bias, which the objective does not know.\n  use a model whose head has none."
        )


@torch.inference_mode()
def check_own_logits(model: Any, form: HeadForm, name: str, key: str = "[teacher] model") -> None:
    """Compare a model's own logits on two tokens with its head applied to its last hidden state.

    Raises InputError where something else comes between them: every signal and every loss would then be of another model.
    """
    refuse_bias(model.get_output_embeddings(), key)
    ids = torch.arange(2, device=model.device)[None]
    own = model(input_ids=ids, use_cache=False).logits.float()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    ours = form.apply_(
        torch.nn.functional.linear(hidden, model.get_output_embeddings().weight).float()
    )
    if own.shape != ours.shape or (own - ours).abs().max() > SAME_LOGITS * own.abs().max():
        raise InputError(
            f'model "{name}": the logits of {type(model).__name__} are not its head applied to its last hidden state; '
            "something comes between that this project does not know.\n  use a model of another architecture."
        )
