"""Under ZeRO-3, with accumulation and small buckets, gradients are those of one process without DeepSpeed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dskd_ds.losses.objective import Scales
from tests.conftest import TinyWorld, write_model
from tests.processes import parity_worker
from tests.processes.conftest import Launch, deepspeed

pytestmark = pytest.mark.process


def single_process(model: Path, teacher: Path | None, frozen: bool) -> dict[str, torch.Tensor]:
    """The same blocks through plain autograd."""
    from transformers import AutoModelForCausalLM

    from dskd_ds.losses.objective import DistillObjective
    from dskd_ds.student.model import DistillStudent, freeze, sense_map

    spec = parity_worker.spec_of(str(model), str(teacher) if teacher else None, frozen)
    language_model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    freeze(language_model, 1 if frozen else None)
    mapping = sense_map(spec, language_model.config.hidden_size)
    student = DistillStudent(language_model, DistillObjective(language_model.get_output_embeddings().weight, spec.loss, 2.0,
                                                              sense_map=mapping))
    parity_worker.start_map(student)
    blocks = [parity_worker.block(n, *parity_worker.sizes(spec)) for n in range(parity_worker.NUM_BLOCKS)]
    tokens, senses = (sum(len(b[part].positions) for b in blocks) for part in (1, 2))
    for ids, word, sense in blocks:
        loss, _ = student(ids, torch.arange(parity_worker.LENGTH)[None], word, sense, Scales(1 / tokens, 1 / senses))
        loss.backward()
    return {name: p.grad for name, p in student.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize(("num_ranks", "tied", "frozen", "other_size"), [
    (1, True, False, False), (2, True, False, False), (2, False, False, False), (2, True, True, True), (3, True, False, True)],
    ids=["1 rank, tied", "2 ranks, tied", "2 ranks, untied", "2 ranks, frozen head, a map", "3 ranks, tied, a map"])
def test_gradients(tiny: TinyWorld, launch: Launch, tmp_path: Path, num_ranks: int, tied: bool, frozen: bool, other_size: bool) -> None:
    """6, 3 or 2 accumulation steps; buckets smaller than most parameters."""
    model, out = tmp_path / "model", tmp_path / "gradients.pt"
    write_model(model, tiny.folder, num_layers=2, seed=5, tied=tied)
    teacher = write_model(tmp_path / "teacher", tiny.folder, num_layers=1, seed=6, hidden_size=48) if other_size else None
    words = ["--model", str(model), "--out", str(out), *(["--frozen"] if frozen else []), *(["--teacher", str(teacher)] if teacher else [])]
    assert launch(*deepspeed(num_ranks, "tests/processes/parity_worker.py", *words), marker=str(out)).code == 0
    found = torch.load(out, weights_only=True)
    expected = single_process(model, teacher, frozen)
    assert found.keys() == expected.keys()
    assert ("language_model.lm_head.weight" in found) == (not tied and not frozen)
    assert ("objective.sense_map" in found) == other_size
    for name, gradient in expected.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
