"""Scores the teacher and any number of students on held-out text, position by position.

Measures the cross-entropy, whose mean gives the perplexity, the KL to the teacher, and how unsure
the teacher is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dskd_ds.data.batches import Batch, Sample, make_batch
from dskd_ds.data.block import Block
from dskd_ds.data.blocks import evenly_spread, heldout_blocks
from dskd_ds.errors import InputError
from dskd_ds.evaluation.items import TEACHER_ENTROPY, ItemScores, digest_of
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.spec import RunSpec

TASK = "heldout"
LOGIT_ROWS = 256
"""Positions whose logits exist at a time."""


@dataclass(frozen=True)
class HeldoutBlock:
    """A held-out block and what its positions belong to."""

    batch: Batch
    documents: Tensor
    """[N] digest of the document of each supervised position."""


@torch.inference_mode()
def score_heldout(
    spec: RunSpec, models: RunModels, students: dict[str, NamedModel]
) -> dict[str, ItemScores]:
    """Return the scores of the teacher (named `teacher`) and of the students on the same text.

    Raises InputError if a student has fewer rows in its head than the teacher.
    """
    teacher = load_frozen(models.teacher, vocab_size=models.shared_vocab_size)
    loaded = {name: load_frozen(student) for name, student in students.items()}
    for name, model in loaded.items():
        _check_rows(name, model, teacher)
    blocks = _evenly_spread_blocks(spec, models)
    all_models = {"teacher": teacher, **loaded}
    rows: dict[str, list[Tensor]] = {name: [] for name in all_models}
    for block in tqdm(blocks, desc="evaluating on held-out text", unit="block"):
        batch = block.batch
        # All models read a block before the next one, so only one block's states exist at a time.
        states = {name: _supervised_states(model, batch) for name, model in all_models.items()}
        for name, found in _score_positions(all_models, states, batch).items():
            rows[name].append(found)
    return {name: _item_scores(name, blocks, torch.cat(parts)) for name, parts in rows.items()}


def _item_scores(model: str, blocks: Iterable[HeldoutBlock], rows: Tensor) -> ItemScores:
    """Return the scores of a model. rows: [N, 3], as `_score_positions` returns them."""
    documents = torch.cat([block.documents for block in blocks]).numpy()
    ids = torch.cat([block.batch.input_ids.flatten() for block in blocks]).numpy()
    targets = torch.cat([block.batch.targets.flatten() for block in blocks]).numpy()
    _, clusters = np.unique(documents, return_inverse=True)
    ce, kl, entropy = (column.copy() for column in rows.double().numpy().T)
    return ItemScores(
        task=TASK,
        model=model,
        digest=digest_of(ids, targets),
        clusters=clusters.astype(np.int64),
        values={"cross_entropy": ce, "kl": kl, TEACHER_ENTROPY: entropy},
    )


def _check_rows(name: str, model: FrozenModel, teacher: FrozenModel) -> None:
    """Raise InputError if a model's head has fewer rows than the teacher's: KL needs them all."""
    if model.vocab_size < teacher.vocab_size:
        raise InputError(
            f"model {name}: its head has {model.vocab_size} rows, but the teacher's has"
            f" {teacher.vocab_size}, so KL is not defined.\n"
            "  name a model with the teacher's vocabulary."
        )


def _evenly_spread_blocks(spec: RunSpec, models: RunModels) -> list[HeldoutBlock]:
    """Return blocks that are evenly spread over the held-out text."""
    blocks: Sequence[Block] = heldout_blocks(spec.data, models.teacher.tokenizer)
    indices = evenly_spread(len(blocks), spec.eval.num_tokens, spec.data.block_tokens)
    return [_heldout_block(blocks[index], index) for index in indices]


def _heldout_block(row: Block, index: int) -> HeldoutBlock:
    batch = make_batch([row], [Sample(0, index)])
    # The segment of a position is the last one that starts at or before it.
    starts = torch.tensor(row["segment_starts"])
    segments = torch.searchsorted(starts, batch.supervised, right=True) - 1
    return HeldoutBlock(batch, torch.tensor(row["doc_digests"])[segments])


def _supervised_states(model: FrozenModel, batch: Batch) -> Tensor:
    """Return the states [N, D] at the batch's supervised positions."""
    hidden = model.hidden_states(batch.input_ids, batch.position_ids).flatten(0, 1)
    return hidden[batch.supervised.to(model.device)]


def _score_positions(
    models: dict[str, FrozenModel], states: dict[str, Tensor], batch: Batch
) -> dict[str, Tensor]:
    """Return, for each model, [N, 3] on the CPU, in nats, at the supervised positions.

    The columns are its cross-entropy, its KL to the teacher, and the teacher's entropy.
    models: the teacher first. states: of each model [N, D] at these positions.
    """
    first, teacher = next(iter(models.items()))
    targets = batch.targets.flatten()[batch.supervised].to(teacher.device)
    rows: dict[str, list[Tensor]] = {name: [] for name in models}
    for start in range(0, len(targets), LOGIT_ROWS):
        chunk = slice(start, start + LOGIT_ROWS)
        ids = targets[chunk]
        # The teacher's distribution is needed by all models: it is computed once per chunk.
        log_p = _log_probs(teacher, states[first][chunk])
        probs = log_p.exp()
        # A dot product per row: unlike a product and a sum, it writes no [N, V] numbers.
        entropy = -torch.linalg.vecdot(probs, log_p)
        for name, model in models.items():
            log_q = log_p if model is teacher else _log_probs(model, states[name][chunk])
            ce = -log_q.gather(1, ids[:, None]).squeeze(1)
            # A student may have more rows than the teacher, which gives them probability 0.
            kl = -torch.linalg.vecdot(probs, log_q[:, : log_p.shape[1]]) - entropy
            rows[name].append(torch.stack([ce, kl, entropy], dim=1).cpu())
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _log_probs(model: FrozenModel, states: Tensor) -> Tensor:
    """Return the log-probabilities [N, V] at states [N, D], in float32."""
    return torch.log_softmax(model.logits(states).float(), dim=1)
