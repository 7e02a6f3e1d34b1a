"""Skipped steps at every ZeRO stage and number format: no rank changes a weight or a moment."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TinyWorld, write_model
from tests.processes.conftest import Launch, ranks
from tests.processes.skip_worker import CONFIGS, FAULTS, FAULTY_RANK

# Slow: twenty engines in one launch take longer than `make test` has.
pytestmark = [pytest.mark.process, pytest.mark.fault, pytest.mark.slow]

NUM_RANKS = 2
CASES = [f"{stage} {dtype}" for stage, dtype in CONFIGS]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the launch of this file writes into."""
    return tmp_path_factory.mktemp("skips")


@pytest.fixture
def found(tiny: TinyWorld, launch: Launch, out: Path) -> list[dict[str, Any]]:
    """What each rank found; launched once for the whole file."""
    files = [out / f"{rank}.json" for rank in range(NUM_RANKS)]
    if not files[0].is_file():
        model = write_model(out / "model", tiny.folder, num_layers=2, seed=5)
        options = ["--model", str(model), "--out", str(out)]
        command = ranks(NUM_RANKS, "-m", "tests.processes.skip_worker", *options)
        assert launch(*command, marker=str(out)).code == 0
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize("case", CASES)
def test_a_faulty_step_of_one_rank_changes_nothing_on_any_rank(
    found: list[dict[str, Any]], case: str
) -> None:
    first, second = (of_rank[case] for of_rank in found)
    # The facts of all ranks are equal; NaN is written as NaN, so the text is compared.
    assert json.dumps(first) == json.dumps(second)
    for fault in FAULTS:
        assert first["faults"][fault]["after"] == first["before"], fault
    assert first["undisturbed"] != first["before"]
    if "float16" not in case.split():  # its loss scale differs after an overflow
        assert first["end"] == [True, first["undisturbed"]]


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named_with_its_rank(found: list[dict[str, Any]], case: str) -> None:
    faults = found[0][case]["faults"]
    assert faults["loss"]["cause"] == "loss"
    losses = faults["loss"]["losses"]
    assert [math.isfinite(loss) for loss in losses] == [rank != FAULTY_RANK for rank in (0, 1)]
    assert faults["loss"]["text"] == f"its loss is not finite (rank {FAULTY_RANK}: nan)"
    assert faults["spike"]["cause"] == "spike"
    assert faults["gradient"]["cause"] == ("overflow" if "float16" in case.split() else "gradient")


@pytest.mark.parametrize("stage", [2, 3])
def test_only_an_overflow_lowers_the_loss_scale(found: list[dict[str, Any]], stage: int) -> None:
    faults = found[0][f"{stage} float16"]["faults"]
    for fault in ("loss", "spike"):
        before, after = faults[fault]["scales"]
        assert after == before, fault
    before, after = faults["gradient"]["scales"]
    assert after == before / 2
