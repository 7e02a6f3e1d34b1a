"""The paper's training run in one process, in plain torch: the reference for a real launch.

It follows the authors' description. It shares with the project only the keys of the random draws:
the order of the rows, the positions of the sense term, and the seeds of the dropout.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from dskd_ds.data.chat import PLAIN_TEMPLATE
from dskd_ds.runtime.seeds import epoch_seed
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.student.dropout import seed_dropout
from tests.unit.senses.choose.slow import Sets, paper_positions, paper_sets

Losses = dict[str, float]


def train(
    *,
    teacher_folder: str,
    student_folder: str,
    chats: Path,
    senses: Path,
    dtype: torch.dtype,
    dropout: float,
    lr: float,
    seed: int,
) -> list[Losses]:
    """Train for two epochs of three rows per step; return the losses of each step.

    The last layer is trained, in `dtype` as are its gradients and AdamW's moments.
    """
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    rows = [
        tokenizer.apply_chat_template(
            json.loads(line)["messages"],
            chat_template=PLAIN_TEMPLATE,
            continue_final_message=True,
            return_dict=False,
        )
        for line in chats.read_text().splitlines()
    ]
    dictionary = open_dictionary(senses)
    teacher = AutoModelForCausalLM.from_pretrained(teacher_folder, dtype=dtype).eval()
    student = AutoModelForCausalLM.from_pretrained(student_folder, dtype=dtype).train()
    for layer in student.model.layers:
        layer.self_attn.attention_dropout = dropout
    student.requires_grad_(False)
    trained = list(student.model.layers[-1].requires_grad_(True).parameters())
    adam = torch.optim.AdamW(trained, lr=lr, weight_decay=1e-3, fused=True)
    related = (dictionary.synonyms.lengths() > 0) | (dictionary.antonyms.lengths() > 0)
    heads = set(np.flatnonzero(related).tolist())
    num_steps = len(rows) * 2 // 3
    steps: list[Losses] = []
    for step in range(num_steps):
        gradients, parts = [], []
        for place in range(3 * step, 3 * step + 3):
            epoch, index = divmod(place, len(rows))
            order = torch.Generator().manual_seed(epoch_seed(seed, epoch))
            number = int(torch.randperm(len(rows), generator=order)[index])
            draws = np.random.default_rng([seed, epoch, number])
            ids = torch.tensor([rows[number]])
            seed_dropout(seed, place)
            ce, kd, sense = losses(teacher, student, dictionary, heads, ids, draws)
            adam.zero_grad()
            (ce + kd + sense).backward()
            gradients.append([weight.grad.float() for weight in trained])
            parts.append(torch.stack([ce, kd / 2.8, sense]).detach())
        for weight, *of_rows in zip(trained, *gradients, strict=True):
            weight.grad = (sum(of_rows) / 3).to(dtype)  # as DDP averages
        for group in adam.param_groups:
            group["lr"] = lr * warm_up_and_cosine(step, num_steps)
        adam.step()
        names = ("loss_ce", "loss_kd", "loss_sense")
        steps.append(dict(zip(names, torch.stack(parts).mean(dim=0).tolist(), strict=True)))
    return steps


def warm_up_and_cosine(step: int, num_steps: int) -> float:
    """Return the learning rate of a step as a share of its peak; a tenth of the steps warm up."""
    warmup = max(1, num_steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def losses(
    teacher: Any,
    student: Any,
    dictionary: SenseDictionary,
    heads: set[int],
    ids: Tensor,
    draws: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return CE, weighted KD and the sense term of one row [1, L + 1], each a mean over it.

    heads: the tokens with synonyms or antonyms. draws: the generator of the sense positions.
    """
    positions, targets = torch.arange(ids.shape[1])[None], ids[0, 1:]
    with torch.no_grad():
        taught = teacher.model(ids, position_ids=positions).last_hidden_state[0, :-1]
        teacher_logits = (taught @ teacher.lm_head.weight.T).float()
    state = student.model(ids, position_ids=positions).last_hidden_state[0, :-1]
    logits = (state @ student.lm_head.weight.T).float()
    ce = torch.nn.functional.cross_entropy(logits, targets)
    log_q, log_p = (torch.log_softmax(x / 2, dim=1) for x in (logits, teacher_logits))
    kd = 0.7 * 2**2 * (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()
    groups = paper_positions([*targets.tolist(), -1], heads, draws)
    values = []
    for group, drawn in zip("AB", groups, strict=True):
        for i in drawn:
            target = int(targets[i])
            sets = paper_sets(
                dictionary,
                group=group,
                target=target,
                synonyms=dictionary.synonyms.row(target).tolist(),
                antonyms=dictionary.antonyms.row(target).tolist(),
                state=taught[i].float(),
            )
            values.append(sense(dictionary, sets, state[i].float()))
    return ce, kd, torch.stack(values).mean() if values else ce.new_zeros(())


def sense(dictionary: SenseDictionary, sets: Sets, state: Tensor) -> Tensor:
    """Return pull and push of one position; an empty set adds 0."""
    plus, minus = (
        (dictionary.senses[sorted(rows)].float() - state).square().mean(dim=1) for rows in sets
    )
    pull = plus.mean() if len(plus) else state.new_zeros(())
    push = (1 - minus).clamp_min(0).mean() if len(minus) else state.new_zeros(())
    return pull + push
