"""Held-out perplexity and KL to the teacher, and continuations to read: of the teacher and of any number of students."""

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
from dskd_ds.data.packing import begin_ids
from dskd_ds.errors import InputError
from dskd_ds.models.frozen import TeacherModel, load_teacher
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.runtime.devices import local_device, resolve_dtype
from dskd_ds.spec import RunSpec

EVALUATION_FILE = "evaluation.json"
LOGIT_ROWS = 256
PROMPT_TOKENS = 24


@dataclass(frozen=True)
class Score:
    """A model on the held-out text."""

    perplexity: float
    kl: float
    """Mean KL(teacher || model) over the whole vocabulary, in nats, at temperature 1."""
    tokens: int
    """Supervised tokens that were measured."""


@torch.inference_mode()
def evaluate(spec: RunSpec, models: RunModels, students: dict[str, NamedModel]) -> dict[str, Score]:
    """Return the scores of the teacher (under the name `teacher`) and of students, all on the same text.

    Raises InputError for a model with fewer rows than the teacher.
    """
    teacher = load_teacher(models.teacher, vocab_size=models.shared_vocab_size)
    loaded = {name: load_teacher(student) for name, student in students.items()}
    for name, model in loaded.items():
        if model.vocab_size < teacher.vocab_size:
            raise InputError(
                f"model {name}: its head has {model.vocab_size} rows, the teacher's {teacher.vocab_size}: no KL is defined.\n"
                "  name a model with the teacher's vocabulary."
            )
    blocks = heldout_blocks(spec.data, models.teacher.tokenizer)
    number = min(len(blocks), max(1, spec.eval.num_tokens // spec.data.block_tokens))
    stride = len(blocks) // number
    totals = {name: torch.zeros(2, dtype=torch.float64) for name in ("teacher", *loaded)}
    tokens = 0
    for i in tqdm(range(number), desc="evaluating on held-out text", unit="block"):
        batch = make_batch([blocks[i * stride]], [Sample(0, i * stride)])
        tokens += len(batch.supervised)
        reference = _supervised_states(teacher, batch)
        for name, model in {"teacher": teacher, **loaded}.items():
            states = reference if model is teacher else _supervised_states(model, batch)
            totals[name] += _sums(teacher, model, reference, states, batch)
    return {
        name: Score(math.exp(ce / tokens), kl / tokens, tokens)
        for name, (ce, kl) in ((n, t.tolist()) for n, t in totals.items())
    }


def _supervised_states(model: TeacherModel, batch: Batch) -> Tensor:
    return model.hidden_states(batch.input_ids, batch.position_ids).flatten(0, 1)[
        batch.supervised.to(model.device)
    ]


def _sums(
    teacher: TeacherModel, model: TeacherModel, reference: Tensor, states: Tensor, batch: Batch
) -> Tensor:
    """[cross-entropy, KL] summed over a batch's supervised positions."""
    targets = batch.targets.flatten()[batch.supervised].to(model.device)
    total = torch.zeros(2, dtype=torch.float64)
    for ref, own, target in zip(
        reference.split(LOGIT_ROWS),
        states.split(LOGIT_ROWS),
        targets.split(LOGIT_ROWS),
        strict=True,
    ):
        log_q = torch.log_softmax(model.logits(own).float(), dim=1)
        log_p = log_q if model is teacher else torch.log_softmax(teacher.logits(ref).float(), dim=1)
        ce = -log_q.gather(1, target[:, None]).sum()
        # A student may have more rows than the teacher: to the teacher they are of probability 0.
        kl = (log_p.exp() * (log_p - log_q[:, : log_p.shape[1]])).sum()
        total += torch.stack([ce, kl]).double().cpu()
    return total


@torch.inference_mode()
def continuations(
    spec: RunSpec, models: RunModels, students: dict[str, NamedModel]
) -> list[dict[str, str]]:
    """Return greedy continuations of held-out beginnings by the teacher and by students.

    One row per beginning: `prompt` and one column per model.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = models.teacher.tokenizer
    begin = begin_ids(tokenizer)
    rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in _prompts(spec, tokenizer)]
    for name, named in {"teacher": models.teacher, **students}.items():
        model: Any = AutoModelForCausalLM.from_pretrained(
            named.path, dtype=resolve_dtype(spec.student.dtype)
        )
        model = model.to(local_device()).eval()
        for row in tqdm(rows, desc=f"continuations of the {name}", unit="text"):
            tokens = [*begin, *tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]]
            ids = torch.tensor([tokens], device=model.device)
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=spec.eval.sample_tokens,
                do_sample=False,
                pad_token_id=0,
            )
            row[name] = tokenizer.decode(output[0, len(tokens) :], skip_special_tokens=True)
    return rows


def _prompts(spec: RunSpec, tokenizer: Any) -> list[str]:
    from dskd_ds.data.documents import heldout_documents

    documents = heldout_documents(spec.data, tokenizer)
    number = min(spec.eval.num_samples, len(documents))
    stride = max(1, len(documents) // max(1, number))
    texts = [documents[i * stride]["text"] for i in range(number)]
    return [
        tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:PROMPT_TOKENS])
        for text in texts
    ]


def write_evaluation(
    spec: RunSpec, scores: dict[str, Score], samples: list[dict[str, str]]
) -> Path:
    """Store scores and samples in the run directory, for the report."""
    path = Path(spec.run_dir) / EVALUATION_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "scores": {name: asdict(score) for name, score in scores.items()},
        "samples": samples,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    return path
