"""The loss on held-out text: the same for any number of ranks, and measured when it is due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from dskd_ds.data.batches import Sample, make_batch
from dskd_ds.data.blocks import evenly_spread
from dskd_ds.errors import InputError
from dskd_ds.objective.fused import DistillObjective
from dskd_ds.observe.best_checkpoint import HeldoutScore
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.heldout_loss import HeldoutLoss, batches_of_rank
from dskd_ds.student.model import DistillStudent
from dskd_ds.student.training import Training
from tests.conftest import TinyWorld
from tests.of_spec import heldout_blocks_of, teacher_of
from tests.unit.student.ranks import on_all_ranks, use_ranks

BLOCK_TOKENS = 32


def spec_of(tiny: TinyWorld, *overrides: str) -> RunSpec:
    settings = ["loss.sense_weight=0", "monitor.heldout_every_steps=1", *overrides]
    return load_spec(tiny.spec_file, settings)


def student_of(tiny: TinyWorld, spec: RunSpec) -> Any:
    """Return a student in training, without DeepSpeed, that is called as its engine is."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny.folder / "teacher", attention_dropout=0.5)
    head: Any = model.get_output_embeddings()
    return DistillStudent(model, DistillObjective(head.weight, spec.loss, 1.0)).train()


def slow_loss(spec: RunSpec, student: Any, num_tokens: int) -> float:
    """Return the mean cross-entropy, one block at a time, from the model's own logits."""
    blocks = heldout_blocks_of(spec)
    total, count = 0.0, 0
    student.eval()
    for index in evenly_spread(len(blocks), num_tokens, BLOCK_TOKENS):
        batch = make_batch([blocks[index]], [Sample(0, index)])
        with torch.no_grad():
            output = student.language_model(
                input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
            )
        log_probs = torch.log_softmax(output.logits.double()[0], dim=1)
        for position in batch.supervised.tolist():
            total -= float(log_probs[position, int(batch.targets[0, position])])
            count += 1
    student.train()
    return total / count


@pytest.mark.parametrize(("num_ranks", "num_rows"), [(1, 1), (2, 1), (3, 2)])
def test_the_loss_is_that_of_the_models_own_logits(
    tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch, num_ranks: int, num_rows: int
) -> None:
    """Five blocks: with two and three ranks, the last ones have nothing left to measure."""
    num_tokens = 5 * BLOCK_TOKENS
    spec = spec_of(
        tiny,
        f"monitor.heldout_tokens={num_tokens}",
        f"topology.num_students={num_ranks}",
        f"train.micro_batch_blocks={num_rows}",
        f"train.global_batch_blocks={num_rows * num_ranks}",
    )
    tokenizer = teacher_of(spec).tokenizer
    comm = use_ranks(monkeypatch, num_ranks)
    students = [student_of(tiny, spec) for _ in range(num_ranks)]
    scores = on_all_ranks(
        comm,
        lambda rank: HeldoutLoss(spec, tokenizer, rank, students[rank]).all_reduce_score(),
    )
    assert all(score == scores[0] for score in scores)
    assert isinstance(scores[0], HeldoutScore)
    assert scores[0].loss == pytest.approx(slow_loss(spec, students[0], num_tokens), rel=1e-6)


def test_measuring_leaves_the_student_in_training(
    tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_ranks(monkeypatch, 1)
    spec = spec_of(tiny, "topology.num_students=1")
    student = student_of(tiny, spec)
    state = torch.get_rng_state()
    HeldoutLoss(spec, teacher_of(spec).tokenizer, 0, student).all_reduce_score()
    assert all(module.training for module in student.modules())
    assert all(parameter.grad is None for parameter in student.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_another_text_has_another_digest(tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    use_ranks(monkeypatch, 1)
    texts = set()
    for num_tokens in (64, 96, 64):
        spec = spec_of(tiny, "topology.num_students=1", f"monitor.heldout_tokens={num_tokens}")
        heldout = HeldoutLoss(spec, teacher_of(spec).tokenizer, 0, student_of(tiny, spec))
        texts.add(heldout.all_reduce_score().text)
    assert len(texts) == 2


@pytest.mark.parametrize("num_blocks", [1, 4, 7, 8])
@pytest.mark.parametrize(("num_rows", "num_ranks"), [(1, 2), (2, 2), (3, 1)])
def test_each_row_is_measured_once_in_equally_many_passes(
    num_blocks: int, num_rows: int, num_ranks: int
) -> None:
    rows: list[Any] = [
        {"input_ids": [number, number], "segment_starts": [0], "unsupervised": []}
        for number in range(num_blocks)
    ]
    of_ranks = [
        batches_of_rank(rows, num_rows=num_rows, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    assert len({len(batches) for batches in of_ranks}) == 1
    measured = [
        int(batch.input_ids.flatten()[position])
        for batches in of_ranks
        for batch in batches
        for position in batch.supervised.tolist()
    ]
    assert sorted(measured) == list(range(num_blocks))


@dataclass
class MadeLoss:
    """Gives the losses of a list, one after the other."""

    losses: list[float]

    def all_reduce_score(self) -> HeldoutScore:
        """See HeldoutLoss."""
        return HeldoutScore(self.losses.pop(0), "text")


@pytest.mark.parametrize(
    ("settings", "measured_at"),
    [
        (["checkpoint.keep_best=true"], [2, 5, 9]),
        (["monitor.heldout_every_steps=3"], [3, 6, 9]),
        (["checkpoint.keep_best=true", "monitor.heldout_every_steps=4"], [2, 4, 5, 8, 9]),
    ],
)
def test_it_is_measured_at_saves_by_steps_and_at_the_end(
    tiny: TinyWorld, settings: list[str], measured_at: list[int]
) -> None:
    """Saves are due after steps 2 and 5, and step 9 is the last one."""
    spec = load_spec(tiny.spec_file, settings)
    nothing: Any = None
    made: Any = MadeLoss([1.0] * len(measured_at))
    training = Training(
        spec=spec,
        rank=0,
        engine=nothing,
        steps=nothing,
        blocks=nothing,
        num_done=0,
        num_steps=9,
        tokens=0,
        skips=nothing,
        heldout=made,
    )
    found = []
    for step in range(1, 10):
        training.num_done = step
        record = training.all_reduce_heldout_loss(is_save_due=step in (2, 5))
        # A save in a later step must not store the loss of other weights.
        assert (training.heldout_score is not None) == bool(record)
        found += [step] if record else []
    assert found == measured_at


@pytest.mark.parametrize("setting", ["checkpoint.keep_best=true", "monitor.heldout_every_steps=5"])
def test_a_loss_on_no_text_is_refused(setting: str) -> None:
    settings = ["data.heldout=[]", "data.heldout_fraction=0", setting]
    key = setting.split("=")[0].split(".")[1]
    with pytest.raises(InputError, match=rf"{key}.*heldout_fraction = 0 keeps none"):
        load_spec("tests/base_run.toml", settings)
