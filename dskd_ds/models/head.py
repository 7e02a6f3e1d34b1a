"""From a last hidden state to logits, for the teacher and the student.

Logits are the product of hidden state and head weight. Some models change it: Cohere multiplies
it by a factor, Granite divides it by one, Gemma applies a soft cap, `cap * tanh(x / cap)`. A check
compares the result with the model's own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dskd_ds.errors import InputError

SAME_LOGITS = 0.01
"""How far a model's own logits may be from ours, as a share of the largest logit.

Two ways to round the same product differ by less.
"""


@dataclass(frozen=True)
class HeadForm:
    """How the product of hidden state and head weight becomes logits."""

    scale: float = 1.0
    softcap: float | None = None

    @staticmethod
    def of(config: Any) -> HeadForm:
        """Return the form of a model with this text configuration (transformers)."""

        def factor(name: str) -> float:
            return float(getattr(config, name, None) or 1.0)

        scale = factor("logit_scale") * factor("lm_head_multiplier")
        scaling = factor("logits_scaling")
        # Granite divides by the number that HyperCLOVA X multiplies with, under the same name.
        if str(config.model_type).startswith("hyperclovax"):
            scale *= scaling
        else:
            scale /= scaling
        return HeadForm(scale, getattr(config, "final_logit_softcapping", None))

    def apply_(self, product: Tensor) -> Tensor:
        """Turn the product [..., V] into logits, in place, and return it."""
        if self.scale != 1.0:
            product.mul_(self.scale)
        if self.softcap is not None:
            product.div_(self.softcap).tanh_().mul_(self.softcap)
        return product

    def slope(self, logits: Tensor) -> Tensor | None:
        """Return the soft cap's derivative [..., V] where it gave `logits`; None without a cap.

        The caller multiplies by `scale`.
        """
        if self.softcap is None:
            return None
        return (logits / self.softcap).square_().neg_().add_(1.0)


PLAIN = HeadForm()
"""The form of a model whose logits are the product itself."""


@dataclass(frozen=True)
class FrozenHead:
    """A head that is not trained: the teacher's, copied to the students for the signal `exact`."""

    weight: Tensor
    """[V, D]"""
    form: HeadForm = PLAIN


def refuse_bias(head: Any, key: str) -> None:
    """Raise InputError if an LM head has a bias, which the objective would ignore."""
    if getattr(head, "bias", None) is not None:
        raise InputError(
            f"{key}: its LM head has a bias, which the objective does not support.\n"
            "  use a model whose head has none."
        )


@torch.inference_mode()
def check_own_logits(
    model: Any,
    form: HeadForm,
    name: str,
    key: str = "[teacher] model",
    product_of: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Compare a model's own logits on two tokens with its head applied to its last hidden state.

    Raises InputError if they differ: every signal and every loss would then be of another model.
    name, key: the model as written, and the setting that names it. product_of: from hidden states
    [..., D] to their product with the head [..., V], if the head's weight is not whole here.
    """
    refuse_bias(model.get_output_embeddings(), key)
    ids = torch.arange(2, device=model.device)[None]
    own = model(input_ids=ids, use_cache=False).logits.float()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    if product_of is not None:
        product = product_of(hidden)
    else:
        product = torch.nn.functional.linear(hidden, model.get_output_embeddings().weight)
    ours = form.apply_(product.float())
    tolerance = SAME_LOGITS * own.abs().max()
    if own.shape != ours.shape or (own - ours).abs().max() > tolerance:
        raise InputError(
            f'{key} = "{name}", but the logits of {type(model).__name__} are not its head applied'
            " to its last hidden state: it computes something else in between, which is not"
            " supported.\n"
            "  use a model of another architecture."
        )
