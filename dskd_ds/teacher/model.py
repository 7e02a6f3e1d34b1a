"""The frozen teacher: trunk and head kept apart, so that logits are formed only where they are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dskd_ds.compute import local_device, resolve_dtype
from dskd_ds.spec.models import TeacherSpec
from dskd_ds.teacher.checkpoint import model_fingerprint, resolve_model


@dataclass(frozen=True)
class TeacherModel:
    """A causal language model in inference."""

    trunk: Any
    """Ids and positions -> last hidden state after the final norm."""
    head: torch.nn.Module
    """Hidden state -> logits."""
    vocab_size: int
    hidden_size: int
    fingerprint: str
    """Weights, number format, device kind: what the replies depend on."""
    device: torch.device

    @torch.inference_mode()
    def hidden_states(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """[B, T] ids and positions -> [B, T, D]. Positions that restart at 0 begin a document; none sees another."""
        output = self.trunk(input_ids=input_ids.to(self.device), position_ids=position_ids.to(self.device), use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """[N, D] -> [N, V]."""
        logits: Tensor = self.head(hidden)
        return logits


def load_teacher(spec: TeacherSpec, device: torch.device | None = None) -> TeacherModel:
    """Load the teacher of a spec, frozen. Raises InputError if it cannot be found."""
    from transformers import AutoModelForCausalLM

    device = device or local_device()
    path, dtype = resolve_model(spec.model), resolve_dtype(spec.dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False)
    model = model.to(device).eval().requires_grad_(False)
    fingerprint = f"{model_fingerprint(path)}-{str(dtype).removeprefix('torch.')}-{device.type}"
    head = model.get_output_embeddings()
    return TeacherModel(model.base_model, head, head.weight.shape[0], model.config.get_text_config().hidden_size,
                        fingerprint, device)
