"""The repair of a cut student: through the real launcher, stopped and resumed, and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.student.terms.weights import MOST_CHANGE
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, mpirun, ranks, warm_dskd
from tests.processes.test_verdict import arguments_of, faulty

pytestmark = [pytest.mark.process, pytest.mark.fault, pytest.mark.slow]

STEPS = 12


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a student in a folder."""
    return load_file(folder / "model.safetensors")


@pytest.fixture
def layer_senses(tiny: TinyWorld, launch: Launch) -> Path:
    """A dictionary of the teacher's third layer, of the tokens that states sit on."""
    folder = tiny.folder / "senses-3"
    settings = (f"dictionary={folder}", "hidden_layer=3", "attribution=on")
    overrides = override_argv([f"senses.{setting}" for setting in settings])
    assert launch(*warm_dskd("senses", "build", str(tiny.spec_file), *overrides)).code == 0
    return folder


def terms_of(senses: Path) -> str:
    """Return one loss below the head of each kind; all but the first are above the cut."""
    above = "student_layer=2,teacher_layer=3,weight=0.1"
    in_layer = f'{above},dictionary="{senses}"'
    return ",".join(
        [
            '{kind="cosine",student_layer=1,weight=0.5,grad_share=0.3}',
            f'{{kind="mse",smoothing=0.5,{in_layer}}}',
            f'{{kind="gram",{above}}}',
            f'{{kind="sense",{in_layer}}}',
            f'{{kind="posterior",shuffled_senses=true,{in_layer}}}',
            f'{{kind="contrast",decay=[0.0,1.0],{in_layer}}}',
        ]
    )


def check_repair(run_dir: Path) -> list[float]:
    """Check that a run has repaired its second layer alone; return the losses of the repair."""
    before, repaired = weights(run_dir / "student_init"), weights(run_dir / "student_repaired")
    assert before.keys() == repaired.keys()
    changed = {name for name in before if not torch.equal(before[name], repaired[name])}
    assert changed == {name for name in before if ".layers.1." in name}

    records = read_metrics(run_dir / "repair")
    losses = [record["repair_loss_layer_2"] for record in records]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert losses == [record["loss"] for record in records]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    return losses


def check_training(trained: list[dict[str, float]]) -> None:
    """Check the records of three steps with the losses of `terms_of`."""
    first, second, _ = trained
    assert second["loss_layer_1_cosine"] > 0
    assert first["weight_layer_1_cosine"] == 0.5
    # Nothing was cut below this layer, so the first gradient is that of rounding alone.
    assert 0 < first["grad_share_layer_1_cosine"] < 0.3 * second["grad_share_layer_1_cosine"]
    assert second["weight_layer_1_cosine"] == 0.5 * MOST_CHANGE
    for kind in ("mse", "gram", "sense", "posterior", "contrast"):
        for key in ("loss", "grad_share"):
            values = [record[f"{key}_layer_2_{kind}"] for record in trained]
            assert all(value > 0 for value in values), (key, kind)
        assert all(-1 <= record[f"grad_cosine_layer_2_{kind}"] <= 1 for record in trained)
    decayed = [record["weight_layer_2_contrast"] for record in trained]
    assert decayed == pytest.approx([0.1, 0.2 / 3, 0.1 / 3])


def test_a_repair_mends_only_its_layers_and_resumes_bit_for_bit(
    tiny: TinyWorld, launch: Launch, layer_senses: Path
) -> None:
    """The teacher's last two layers are cut off: the student's second layer does their work.

    Then it is trained with every kind of loss below the head, in two micro-batches per step. The
    second run is stopped in each of the two phases.
    """
    settings = (
        f"repair.steps={STEPS}",
        "repair.lr=0.02",
        "train.num_steps=3",
        "train.micro_batch_blocks=1",
        "student.activation_checkpointing=true",
        f"loss.terms=[{terms_of(layer_senses)}]",
    )
    whole, stopped = tiny.folder / "repaired", tiny.folder / "repaired-twice"
    ended = launch(*mpirun(3, "dskd_ds/train.py", *arguments_of(tiny, whole, *settings)))
    assert ended.code == 0

    losses = check_repair(whole)
    trained = read_metrics(whole)
    check_training(trained)
    assert not (whole / "repair" / "checkpoints").exists()
    assert list((whole / "tensorboard" / "repair").glob("events*"))

    argv = arguments_of(tiny, stopped, *settings)
    ended = launch(*ranks(3, *faulty("signal", 4), *argv))
    assert ended.code == 3
    assert not (stopped / "student_repaired").exists()
    ended = launch(*ranks(3, *faulty("signal", 3), *argv))
    assert ended.code == 3
    assert len(read_metrics(stopped)) == 2
    ended = launch(*ranks(3, "dskd_ds/train.py", *argv))
    assert ended.code == 0
    expected, found = weights(whole / "student"), weights(stopped / "student")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    repair = read_metrics(stopped / "repair")
    assert [record["repair_loss_layer_2"] for record in repair] == losses
    assert {record["attempt"] for record in repair} == {1, 2}
    # The weight that follows the gradient goes on from where it was.
    resumed = [record["weight_layer_1_cosine"] for record in read_metrics(stopped)]
    assert resumed == [record["weight_layer_1_cosine"] for record in trained]
