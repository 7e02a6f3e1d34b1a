"""The paper's training steps, rank by rank in one process, against a loop of plain torch.

Everything of a run takes part but DeepSpeed and the link: rows, the sense positions, the teacher's
answers, the objective, attention dropout, and AdamW in bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

from dskd_ds.data.batches import places, read_batch
from dskd_ds.data.source import open_source
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.link import Answer
from dskd_ds.models.frozen import load_frozen
from dskd_ds.models.named import RunModels
from dskd_ds.objective.fused import STATS, DistillObjective, Scales
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.depth import student_init
from dskd_ds.student.dropout import seed_dropout, set_dropout
from dskd_ds.student.model import DistillStudent, freeze, teacher_head
from dskd_ds.student.replies.requests import RequestBuilder
from dskd_ds.student.schedule import lr_at
from dskd_ds.teacher.answer import answer
from tests.conftest import WORDS, TinyWorld
from tests.paper_world import DROPOUT, LR, NUM_CHATS, SEED, paper_tree, write_chats
from tests.processes import single_process

HIDDEN_SIZE, PER_TOKEN = 32, 3


def dictionary_in(folder: Path, models: RunModels) -> SenseDictionary:
    """Write random senses of all tokens, with relations between some words."""
    tokenizer, vocab_size = models.teacher.tokenizer, models.teacher.vocab_size
    words = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in WORDS]
    num_rows = vocab_size * PER_TOKEN
    rows = torch.randn(num_rows, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))
    write_dictionary(
        folder,
        senses=Senses(np.arange(num_rows) // PER_TOKEN, rows, np.ones(num_rows, np.int64)),
        relations=TokenRelations(
            {words[i]: [words[i + 1]] for i in range(0, 20, 2)},
            {words[i]: [words[i + 2]] for i in range(0, 24, 3)},
            [],
        ),
        facts={"vocab_size": vocab_size, "layer": -1, "teacher": "t", "tokenizer": "z"},
        num_senses=PER_TOKEN,
    )
    return open_dictionary(folder)


def run_steps(spec: RunSpec, models: RunModels, dictionary: SenseDictionary) -> list[Any]:
    """Train as three ranks do, one after the other; return the sums of each step by name."""
    from transformers import AutoModelForCausalLM

    retriever = SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)
    sizes = models.teacher.vocab_size, models.teacher.hidden_size
    requests = RequestBuilder(spec, retriever, *sizes)
    teacher = load_frozen(models.teacher, torch.device("cpu"))
    source = open_source(
        spec.data,
        models.teacher.tokenizer,
        seed=spec.seed,
        step_blocks=3,
        max_tokens=models.max_tokens,
    )
    path = student_init(spec, models).path
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    freeze(model, spec.student)
    set_dropout(model, spec.student.attention_dropout)
    head = teacher_head(spec, models)
    objective = DistillObjective(model.lm_head.weight, spec.loss, 1.0, teacher_head=head)
    student = DistillStudent(model, objective).train()
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(trained, lr=LR, weight_decay=1e-3, fused=True)
    num_steps = NUM_CHATS * 2 // 3
    steps = []
    for step in range(num_steps):
        total = torch.zeros(len(STATS), dtype=torch.float64)
        gradients = []
        for rank in range(3):
            place = places(spec, step, 0, rank)
            batch = read_batch(source, place)
            request = requests.request(batch)
            arrays = answer(teacher, request.arrays, request.wanted)
            reply = requests.read(request, Answer(arrays, "a", forward_seconds=0.0, link_bytes=0))
            seed_dropout(spec.seed, place.start)
            targets = requests.targets(request, reply)
            # The loss is divided by three rows, and DDP averages over three ranks.
            scales = Scales(token=1.0, sense=1.0)
            adam.zero_grad()
            loss, sums = student(batch.input_ids, batch.position_ids, *targets, scales)
            loss.backward()
            gradients.append([parameter.grad.float() for parameter in trained])
            total += sums
        for parameter, *of_ranks in zip(trained, *gradients, strict=True):
            parameter.grad = (sum(of_ranks) / 3).to(torch.bfloat16)
        for group in adam.param_groups:
            group["lr"] = lr_at(spec, step, num_steps)
        adam.step()
        steps.append(dict(zip(STATS, (total / 3).tolist(), strict=True)))
    return steps


def test_steps_equal_those_of_plain_torch(tiny: TinyWorld, tmp_path: Path) -> None:
    chats = write_chats(tmp_path)
    spec_file = tmp_path / "paper.toml"
    spec_file.write_text(tomli_w.dumps(paper_tree(tiny, tmp_path, chats)))
    spec = load_spec(spec_file)
    models = RunModels.of(spec)
    dictionary = dictionary_in(tmp_path / "senses", models)
    found = run_steps(spec, models, dictionary)
    expected = single_process.train(
        teacher_folder=str(tiny.folder / "teacher"),
        student_folder=str(tmp_path / "run" / "student_init"),
        chats=chats,
        senses=tmp_path / "senses",
        dtype=torch.bfloat16,
        dropout=DROPOUT,
        lr=LR,
        seed=SEED,
    )
    assert len(found) == len(expected) == 8
    for number, (sums, losses) in enumerate(zip(found, expected, strict=True)):
        mine = {f"loss_{name}": sums[name] for name in ("ce", "kd", "sense")}
        # Two roundings of a bfloat16 weight can differ after the first update.
        tolerance = 1e-5 if number == 0 else 1e-3
        assert mine == pytest.approx(losses, rel=tolerance), number
