"""Under ZeRO-3, with accumulation and small buckets, gradients are those of one process without DeepSpeed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dskd_ds.losses.objective import Scales
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld, write_model
from tests.processes import parity_worker
from tests.processes.conftest import Launch, deepspeed

pytestmark = pytest.mark.process


def single_process(model: Path, frozen: bool) -> dict[str, torch.Tensor]:
    """The same blocks through plain autograd."""
    from transformers import AutoModelForCausalLM

    from dskd_ds.losses.objective import DistillObjective
    from dskd_ds.student.model import DistillStudent, freeze

    spec = load_spec("ds_configs/runs/quickstart.toml", ["loss.chunk_positions=4", "loss.sense_weight=0.5"])
    language_model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    freeze(language_model, 1 if frozen else None)
    student = DistillStudent(language_model, DistillObjective(language_model.get_output_embeddings().weight, spec.loss, 2.0))
    config = language_model.config
    blocks = [parity_worker.block(n, config.vocab_size, config.hidden_size) for n in range(parity_worker.NUM_BLOCKS)]
    tokens, senses = (sum(len(b[part].positions) for b in blocks) for part in (1, 2))
    for ids, teacher, sense in blocks:
        loss, _ = student(ids, torch.arange(parity_worker.LENGTH)[None], teacher, sense, Scales(1 / tokens, 1 / senses))
        loss.backward()
    return {name: p.grad for name, p in student.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize(("num_ranks", "tied", "frozen"), [(1, True, False), (2, True, False), (2, False, False), (2, True, True)],
                         ids=["1 rank, tied", "2 ranks, tied", "2 ranks, untied", "2 ranks, frozen head"])
def test_gradients(tiny: TinyWorld, launch: Launch, tmp_path: Path, num_ranks: int, tied: bool, frozen: bool) -> None:
    model, out = tmp_path / "model", tmp_path / "gradients.pt"
    write_model(model, tiny.folder, num_layers=2, seed=5, tied=tied)
    words = ["--model", str(model), "--out", str(out), *(["--frozen"] if frozen else [])]
    assert launch(*deepspeed(num_ranks, "tests/processes/parity_worker.py", *words), marker=str(out)).code == 0
    found = torch.load(out, weights_only=True)
    expected = single_process(model, frozen)
    assert found.keys() == expected.keys()
    assert ("language_model.lm_head.weight" in found) == (not tied and not frozen)
    for name, gradient in expected.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
