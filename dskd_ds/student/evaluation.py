"""Evaluates the teacher and any number of students on held-out text.

Measures perplexity and KL to the teacher, and writes greedy continuations to read.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.batches import Batch, Sample, make_batch
from dskd_ds.data.blocks import heldout_blocks
from dskd_ds.data.documents import heldout_documents
from dskd_ds.data.packing import begin_ids
from dskd_ds.errors import InputError
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.runtime.devices import local_device, resolve_dtype
from dskd_ds.spec import RunSpec

EVALUATION_FILE = "evaluation.json"
LOGIT_ROWS = 256
"""Positions whose logits exist at a time."""
PROMPT_TOKENS = 24
"""Tokens of a held-out document that a continuation starts from."""


@dataclass(frozen=True)
class Score:
    """What was measured of a model on the held-out text."""

    perplexity: float
    kl: float
    """Mean KL(teacher || model) over the whole vocabulary, in nats, at temperature 1."""
    tokens: int
    """Supervised tokens that were measured."""


@torch.inference_mode()
def evaluate(spec: RunSpec, models: RunModels, students: dict[str, NamedModel]) -> dict[str, Score]:
    """Return the scores of the teacher (named `teacher`) and of the students on the same text.

    Raises InputError if a student has fewer rows in its head than the teacher.
    """
    teacher = load_frozen(models.teacher, vocab_size=models.shared_vocab_size)
    loaded = {name: load_frozen(student) for name, student in students.items()}
    for name, model in loaded.items():
        _check_rows(name, model, teacher)
    totals = {name: torch.zeros(2, dtype=torch.float64) for name in ("teacher", *loaded)}
    num_tokens = 0
    batches = _heldout_batches(spec, models)
    for batch in tqdm(batches, desc="evaluating on held-out text", unit="block"):
        num_tokens += len(batch.supervised)
        # All models read a block before the next one, so only one block's states exist at a time.
        teacher_states = _supervised_states(teacher, batch)
        for name, model in {"teacher": teacher, **loaded}.items():
            states = teacher_states if model is teacher else _supervised_states(model, batch)
            totals[name] += _sums(teacher, model, teacher_states, states, batch)
    scores: dict[str, Score] = {}
    for name, total in totals.items():
        ce, kl = total.tolist()
        scores[name] = Score(math.exp(ce / num_tokens), kl / num_tokens, num_tokens)
    return scores


def _check_rows(name: str, model: FrozenModel, teacher: FrozenModel) -> None:
    """Raise InputError if a model's head has fewer rows than the teacher's: KL needs them all."""
    if model.vocab_size < teacher.vocab_size:
        raise InputError(
            f"model {name}: its head has {model.vocab_size} rows, but the teacher's has"
            f" {teacher.vocab_size}, so KL is not defined.\n"
            "  name a model with the teacher's vocabulary."
        )


def _heldout_batches(spec: RunSpec, models: RunModels) -> list[Batch]:
    """Return one batch per block, evenly spread over the held-out text."""
    blocks = heldout_blocks(spec.data, models.teacher.tokenizer)
    wanted = spec.eval.num_tokens // spec.data.block_tokens
    num_blocks = min(len(blocks), max(1, wanted))
    stride = len(blocks) // num_blocks
    indices = [index * stride for index in range(num_blocks)]
    return [make_batch([blocks[index]], [Sample(0, index)]) for index in indices]


def _supervised_states(model: FrozenModel, batch: Batch) -> Tensor:
    """Return the states [N, D] at the batch's supervised positions."""
    hidden = model.hidden_states(batch.input_ids, batch.position_ids).flatten(0, 1)
    return hidden[batch.supervised.to(model.device)]


def _sums(
    teacher: FrozenModel,
    model: FrozenModel,
    teacher_states: Tensor,
    model_states: Tensor,
    batch: Batch,
) -> Tensor:
    """Return [cross-entropy, KL] summed over a batch's supervised positions, in float64.

    teacher_states [N, D_teacher], model_states [N, D]: at these positions.
    """
    targets = batch.targets.flatten()[batch.supervised].to(model.device)
    total = torch.zeros(2, dtype=torch.float64)
    chunks = zip(
        teacher_states.split(LOGIT_ROWS),
        model_states.split(LOGIT_ROWS),
        targets.split(LOGIT_ROWS),
        strict=True,
    )
    for teacher_rows, model_rows, ids in chunks:
        log_q = torch.log_softmax(model.logits(model_rows).float(), dim=1)
        log_p = log_q
        if model is not teacher:
            log_p = torch.log_softmax(teacher.logits(teacher_rows).float(), dim=1)
        ce = -log_q.gather(1, ids[:, None]).sum()
        # A student may have more rows than the teacher, which gives them probability 0.
        kl = (log_p.exp() * (log_p - log_q[:, : log_p.shape[1]])).sum()
        total += torch.stack([ce, kl]).double().cpu()
    return total


@torch.inference_mode()
def continuations(
    spec: RunSpec, models: RunModels, students: dict[str, NamedModel]
) -> list[dict[str, str]]:
    """Return greedy continuations of held-out prompts by the teacher and by the students.

    One row per prompt: the column `prompt`, and one column per model.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = models.teacher.tokenizer
    rows = [{"prompt": prompt} for prompt in _prompts(spec, tokenizer)]
    for name, named in {"teacher": models.teacher, **students}.items():
        # Not `load_frozen`: a FrozenModel has no `generate`.
        model: Any = AutoModelForCausalLM.from_pretrained(
            named.path, dtype=resolve_dtype(spec.student.dtype)
        )
        model = model.to(local_device()).eval()
        for row in tqdm(rows, desc=f"continuations of the {name}", unit="text"):
            row[name] = _continue(model, tokenizer, row["prompt"], spec.eval.sample_tokens)
    return rows


def _continue(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    """Return what the model writes after a prompt, choosing the likeliest token each time."""
    encoded = tokenizer(prompt, add_special_tokens=False)
    tokens = [*begin_ids(tokenizer), *encoded["input_ids"]]
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


def write_evaluation(
    spec: RunSpec, scores: dict[str, Score], samples: list[dict[str, str]]
) -> Path:
    """Write scores and samples into the run directory, for the report, and return the file."""
    path = Path(spec.run_dir) / EVALUATION_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "scores": {name: asdict(score) for name, score in scores.items()},
        "samples": samples,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    return path
