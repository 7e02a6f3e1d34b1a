"""AdamW in bfloat16, clipping that is off, and attention dropout, under every ZeRO stage.

The reference is a plain loop of torch over the same blocks, in one process.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dskd_ds.objective.fused import DistillObjective, Scales
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.student.dropout import seed_dropout, set_dropout
from dskd_ds.student.model import DistillStudent
from tests.conftest import TinyWorld, write_model
from tests.processes import optimizer_worker as worker
from tests.processes.conftest import Launch, ranks

pytestmark = [pytest.mark.process, pytest.mark.slow]

BF16 = ["student.dtype=bfloat16", "student.precision=bf16", "optimizer.max_grad_norm=0"]
DROPOUT = ["student.attention_dropout=0.5", "optimizer.max_grad_norm=0"]
LR = 1e-3


@pytest.fixture
def model(tiny: TinyWorld, tmp_path: Path) -> str:
    return str(write_model(tmp_path / "model", tiny.folder, num_layers=2, seed=5))


def run_cases(
    launch: Launch, folder: Path, num_ranks: int, cases: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run cases in one launch, and return what each has found."""
    for number, case in enumerate(cases):
        case["out"] = str(folder / f"{num_ranks}-{number}.pt")
        case["overrides"] = [f"optimizer.lr={LR}", *case["overrides"]]
    file = folder / f"cases-{num_ranks}.json"
    file.write_text(json.dumps(cases))
    argv = ("-m", "tests.processes.optimizer_worker", "--cases", str(file))
    assert launch(*ranks(num_ranks, *argv), marker=str(file)).code == 0
    return [torch.load(case["out"], weights_only=True) for case in cases]


def single_process(model: str, overrides: list[str]) -> dict[str, Any]:
    """Return weights, sums and shares of unchanged weights of a loop of plain torch."""
    from transformers import AutoModelForCausalLM

    spec = worker.spec_of(model, "ds_configs/zero2.json", 1, overrides)
    is_bf16 = spec.student.precision == "bf16"
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    language_model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    set_dropout(language_model, spec.student.attention_dropout)
    head = language_model.get_output_embeddings().weight
    student = DistillStudent(language_model, DistillObjective(head, spec.loss, worker.MARGIN))
    student.train()
    shape = language_model.config
    settings = spec.optimizer
    adam = torch.optim.AdamW(
        student.parameters(), lr=LR, weight_decay=settings.weight_decay, fused=True
    )
    found: dict[str, Any] = {"sums": [], "unchanged": []}
    for step in range(worker.NUM_STEPS):
        batches = worker.micro_batches(step, shape.vocab_size, shape.hidden_size)
        counts = worker.counts_of(batches)
        total: Any = 0
        adam.zero_grad()
        for batch in batches:
            seed_dropout(spec.seed, batch.place)
            scales = Scales(1 / counts.tokens, 1 / max(counts.senses, 1))
            loss, sums = student(
                batch.input_ids, batch.position_ids, batch.teacher, batch.senses, scales
            )
            loss.backward()
            total = total + sums
        before = [parameter.detach().clone() for parameter in student.parameters()]
        adam.step()
        found["sums"].append(total)
        found["unchanged"].append(share_unchanged(before, list(student.parameters())))
    found["weights"] = dict(student.named_parameters())
    return found


def share_unchanged(before: list[torch.Tensor], after: list[Any]) -> float:
    """Return the share of weights with a gradient whose value is the same as before."""
    num_same = num_all = 0
    for old, new in zip(before, after, strict=True):
        has_gradient = new.grad != 0
        num_all += int(has_gradient.sum())
        num_same += int((has_gradient & (old == new)).sum())
    return num_same / num_all


def test_bf16_weights_equal_those_of_a_plain_loop(
    launch: Launch, tmp_path: Path, model: str
) -> None:
    """Weights, gradients and moments are bfloat16 only, at every stage; nothing is clipped."""
    cases = [{"model": model, "stage": stage, "overrides": BF16} for stage in (1, 2, 3)]
    expected = single_process(model, BF16)
    assert 0 < expected["unchanged"][-1] < 1
    for found in run_cases(launch, tmp_path, 1, cases):
        assert found["state_dtypes"] == ["torch.bfloat16"]
        torch.testing.assert_close(found["sums"], expected["sums"], rtol=1e-6, atol=0)
        for name, weight in expected["weights"].items():
            assert found["weights"][name].dtype == torch.bfloat16
            assert torch.equal(found["weights"][name], weight), name
        assert found["unchanged"] == pytest.approx(expected["unchanged"], abs=1e-9)


def test_clipping_is_off_at_zero(launch: Launch, tmp_path: Path, model: str) -> None:
    """The first moment after one step is 1 - beta1 times the gradient, clipped or not."""
    overrides = ["optimizer.lr=1e-9", "optimizer.betas=[0.5, 0.9]"]
    cases = [
        {"model": model, "stage": stage, "overrides": [*overrides, f"optimizer.max_grad_norm={n}"]}
        for stage in (0, 1, 2, 3)
        for n in (0, 0.01)
    ]
    found = run_cases(launch, tmp_path, 1, cases)
    for off, on in zip(found[::2], found[1::2], strict=True):
        norm = off["grad_norms"][0]
        assert norm > 0.1
        assert off["moment_norms"][0] == pytest.approx(0.5 * norm, rel=1e-5)
        assert on["moment_norms"][0] == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_dropout_draws_the_same_for_any_number_of_ranks(
    launch: Launch, tmp_path: Path, model: str
) -> None:
    expected = single_process(model, DROPOUT)
    assert not torch.allclose(expected["sums"][0], single_process(model, [])["sums"][0])
    cases = [
        {"model": model, "stage": 3, "overrides": DROPOUT},
        {
            "model": model,
            "stage": 3,
            "overrides": [*DROPOUT, "student.activation_checkpointing=true"],
        },
    ]
    for num_ranks in (1, 2):
        for found in run_cases(launch, tmp_path, num_ranks, cases):
            torch.testing.assert_close(found["sums"], expected["sums"], rtol=1e-5, atol=1e-6)
            for name, weight in expected["weights"].items():
                torch.testing.assert_close(found["weights"][name], weight, rtol=1e-4, atol=1e-5)


def test_a_run_in_bf16_with_dropout_resumes_to_the_same_bits(
    tiny: TinyWorld, launch: Launch
) -> None:
    """Two students and a teacher. The learning rate is constant, so that the length may change."""
    overrides = [
        "loss.sense_weight=0",
        "student.layers=first",
        "student.dtype=bfloat16",
        "student.precision=bf16",
        "student.attention_dropout=0.2",
        "optimizer.max_grad_norm=0",
        "optimizer.warmup_fraction=0",
        "optimizer.min_lr_fraction=1",
        "monitor.tensorboard=false",
    ]

    def train(name: str, num_steps: int) -> list[dict[str, float]]:
        run_dir = tiny.folder / f"optimizer-{name}"
        settings = [*overrides, f"run_dir={run_dir}", f"train.num_steps={num_steps}"]
        argv = ["--spec", str(tiny.spec_file), *override_argv(settings)]
        assert launch(*ranks(3, "dskd_ds/train.py", *argv)).code == 0
        return read_metrics(run_dir)

    whole = train("whole", 3)
    train("stopped", 2)
    resumed = train("stopped", 3)
    for key in ("loss", "loss_ce", "loss_kd", "grad_norm", "unchanged_weights"):
        assert [record[key] for record in resumed] == [record[key] for record in whole]
    assert all(0 < record["unchanged_weights"] < 1 for record in whole)
