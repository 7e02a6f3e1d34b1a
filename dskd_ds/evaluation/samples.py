"""Greedy continuations of held-out text by the teacher and by the students, for reading."""

from __future__ import annotations

from typing import Any

import torch
from tqdm import tqdm

from dskd_ds.data.documents import heldout_documents
from dskd_ds.data.packing import begin_ids
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.runtime.devices import local_device
from dskd_ds.spec import RunSpec

PROMPT_TOKENS = 24
"""Tokens of a held-out document that a continuation starts from."""


@torch.inference_mode()
def continuations(
    spec: RunSpec, models: RunModels, students: dict[str, NamedModel]
) -> list[dict[str, str]]:
    """Return greedy continuations of held-out prompts by the teacher and by the students.

    One row per prompt: the column `prompt`, and one column per model.
    Raises InputError if the files of a model lack weights.
    """
    tokenizer = models.teacher.tokenizer
    rows = [{"prompt": prompt} for prompt in _prompts(spec, tokenizer)]
    for name, named in {"teacher": models.teacher, **students}.items():
        # Not `load_frozen`: a FrozenModel has no `generate`.
        model = named.load().to(local_device()).eval()
        for row in tqdm(rows, desc=f"continuations of the {name}", unit="text"):
            row[name] = _continue(model, tokenizer, row["prompt"], spec.eval.sample_tokens)
    return rows


def _continue(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    """Return what the model writes after a prompt, choosing the likeliest token each time."""
    tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    begin = begin_ids(tokenizer)
    if tokens[:1] != begin:  # many chat templates write the BOS token themselves
        tokens = [*begin, *tokens]
    ids = torch.tensor([tokens], device=model.device)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    text: str = tokenizer.decode(output[0, len(tokens) :], skip_special_tokens=True)
    return text


def _prompts(spec: RunSpec, tokenizer: Any) -> list[str]:
    """Return the first tokens of some documents, evenly spread over the held-out text."""
    documents = heldout_documents(spec.data, tokenizer)
    num_prompts = min(spec.eval.num_samples, len(documents))
    stride = max(1, len(documents) // max(1, num_prompts))
    prompts: list[str] = []
    for index in range(num_prompts):
        encoded = tokenizer(documents[index * stride]["text"], add_special_tokens=False)
        prompts.append(tokenizer.decode(encoded["input_ids"][:PROMPT_TOKENS]))
    return prompts
