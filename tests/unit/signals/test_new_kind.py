"""The two files of docs/architecture.md, "Adding a signal kind", are all that a new kind needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dskd_ds.costs.traffic import held_bytes, signal_bytes
from dskd_ds.losses.sense import SenseTargets
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.objective.fused import STATS, DistillObjective, Scales
from dskd_ds.signals.kind import signal_kind
from dskd_ds.spec import RunSpec
from dskd_ds.spec.loss import LossSpec
from tests.unit.conftest import D, V
from tests.unit.student.test_feed import feed_of, spec_of

PAGE = Path("dskd_ds/docs") / "architecture.md"


@pytest.fixture
def top1() -> Iterator[LossSpec]:
    """Settings for the example's kind, whose module is there for the time of a test."""
    section = PAGE.read_text().split("## Adding a signal kind")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    module = ModuleType("dskd_ds.signals.top1")
    exec(compile(code[1], "signals/top1.py", "exec"), module.__dict__)
    sys.modules[module.__name__] = module
    plain = LossSpec(top_k=1, sense_weight=0)
    yield plain.model_copy(update={"signal": "top1"})  # the spec's Literal does not know it
    del sys.modules[module.__name__]


def run_spec(loss: LossSpec) -> RunSpec:
    return spec_of("topk").model_copy(update={"loss": loss})


def test_a_new_kind_goes_over_the_link_and_trains(
    top1: LossSpec, teacher: FrozenModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its divergence is the student's cross-entropy on the teacher's likeliest token."""
    with feed_of(run_spec(top1), teacher, tmp_path) as feed:
        batch = feed.next().micro_batches[0]
    assert "alignment self-test: targets' log-probability" in capfd.readouterr().err
    hidden = teacher.hidden_states(batch.input_ids, batch.position_ids)
    likeliest = teacher.logits(hidden[0, batch.teacher.positions]).argmax(dim=1)
    student = torch.randn(V, D, generator=torch.Generator().manual_seed(1))
    objective = DistillObjective(torch.nn.Parameter(student), top1, 1.0)
    stats = objective(hidden, batch.teacher, SenseTargets.empty(D), Scales(1.0, 1.0))[1]
    logits = hidden[0, batch.teacher.positions] @ student.T
    expected = torch.nn.functional.cross_entropy(logits, likeliest, reduction="sum")
    assert stats[STATS.index("kd")].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_plan_knows_what_a_new_kind_costs(top1: LossSpec) -> None:
    """One id, one logit and one tail per position; 12 bytes more once unpacked."""
    spec = run_spec(top1)
    size = signal_bytes(spec, vocab_size=60, hidden_size=D, sense_share=0.0)
    assert (size.top_k, size.draws, size.hidden) == (1 + 2 + 4, 0, 0)
    tokens = 3 * spec.data.block_tokens * (spec.link.prefetch_depth + 1)
    assert held_bytes(spec, size, D, spec.data.block_tokens) == tokens * (size.total + 12)
    assert signal_kind(top1).describe() == "the likeliest token"
