"""Each DeepSpeed configuration that comes with the project starts, as far as a CPU lets it, and trains to the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dskd_ds.observe.metrics import read_metrics
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, deepspeed, dskd, torchrun

pytestmark = [pytest.mark.process, pytest.mark.slow]

SAME = ("loss", "loss_ce", "loss_kd", "grad_norm", "teacher_mass", "student_mass")
PLAIN = (
    "loss.sense_weight=0",
    "student.layers=first",
    "train.num_steps=3",
    "monitor.tensorboard=false",
)


def words_of(tiny: TinyWorld, name: str, *overrides: str) -> list[str]:
    """The command line's words for a run of that name."""
    return [
        word
        for key in (*PLAIN, f"run_dir={tiny.folder / f'configs-{name}'}", *overrides)
        for word in ("--set", key)
    ]


def train(tiny: TinyWorld, launch: Launch, name: str, *overrides: str) -> list[dict[str, float]]:
    """Metrics of three steps on two students and a teacher, each of two accumulation steps; once a session for each name."""
    run_dir = tiny.folder / f"configs-{name}"
    if not (run_dir / "student").is_dir():
        words = words_of(tiny, name, *overrides)
        assert (
            launch(*torchrun(3, "dskd_ds/train.py", "--spec", str(tiny.spec_file), *words)).code
            == 0
        )
    records = read_metrics(run_dir)
    assert len(records) == 3
    return records


def hpz_alone(folder: Path) -> str:
    """zero_pp.json without what only CUDA has, for a node of two."""
    content = json.loads(Path("ds_configs/zero_pp.json").read_text())
    zero = content["zero_optimization"]
    zero.update(
        zero_hpz_partition_size=2, zero_quantized_weights=False, zero_quantized_gradients=False
    )
    path = folder / "hpz.json"
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    "name",
    [
        "zero0",
        "zero2",
        "zero3",
        "zero3_offload",
        "hpz",
        "compile, checkpointing",
        "frozen, checkpointing",
    ],
)
def test_losses_are_those_of_zero3_cpu(tiny: TinyWorld, launch: Launch, name: str) -> None:
    frozen = ("student.train_last_layers=1",) if "frozen" in name else ()
    switches = {
        "checkpointing": "student.activation_checkpointing=true",
        "compile": "student.compile=true",
    }
    overrides = (*(switch for word, switch in switches.items() if word in name), *frozen)
    if not overrides:
        overrides = (
            f"deepspeed={hpz_alone(tiny.folder) if name == 'hpz' else f'ds_configs/{name}.json'}",
        )
    expected = train(tiny, launch, "frozen" if frozen else "zero3_cpu", *frozen)
    found = train(tiny, launch, name.replace(", ", "-"), *overrides)
    assert expected[2]["loss"] < expected[0]["loss"]
    for mine, theirs in zip(found, expected, strict=True):
        for key in SAME:
            assert mine[key] == pytest.approx(theirs[key], rel=2e-5), (mine["step"], key)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("zero0", ()),
        ("zero2", ()),
        ("zero0-bf16", ("student.dtype=bfloat16", "student.train_last_layers=1")),
    ],
)
def test_a_checkpoint_exports_the_student_that_training_did(
    tiny: TinyWorld, launch: Launch, name: str, overrides: tuple[str, ...]
) -> None:
    """Up to stage 2 from the one file with the whole student; test_end_to_end.py does stage 3."""
    overrides = (f"deepspeed=ds_configs/{name.split('-')[0]}.json", *overrides)
    train(tiny, launch, name, *overrides)
    path = tiny.folder / f"configs-{name}" / "student" / "model.safetensors"
    trained = load_file(path)
    path.unlink()
    assert launch(*dskd("export", str(tiny.spec_file), *words_of(tiny, name, *overrides))).code == 0
    exported = load_file(path)
    assert exported.keys() == trained.keys()
    assert all((exported[name] == trained[name]).all() for name in trained)


def test_bf16_trains_close_by(tiny: TinyWorld, launch: Launch) -> None:
    expected = train(tiny, launch, "zero3_cpu")
    found = train(tiny, launch, "bf16", "deepspeed=ds_configs/zero3.json", "student.dtype=bfloat16")
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.02)
        assert mine["loss"] != theirs["loss"]


def test_quantised_communication_needs_a_gpu(tiny: TinyWorld, launch: Launch) -> None:
    words = [
        word
        for key in (
            *PLAIN,
            f"run_dir={tiny.folder / 'zero_pp'}",
            "deepspeed=ds_configs/zero_pp.json",
        )
        for word in ("--set", key)
    ]
    ended = launch(*deepspeed(3, "dskd_ds/train.py", "--spec", str(tiny.spec_file), *words))
    assert ended.code == 2
    assert ended.output.count("the kernels it needs are CUDA's") == 1
    assert "Traceback" not in ended.output


def test_fp16_gradients_neither_vanish_nor_overflow_unseen(
    tiny: TinyWorld, launch: Launch, tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    words = ["--model", str(tiny.folder / "teacher"), "--out", str(out)]
    assert (
        launch(
            *deepspeed(1, "--module", "tests.processes.fp16_worker", *words), marker=str(out)
        ).code
        == 0
    )
    found = json.loads(out.read_text())
    small, expected = found["float16 10000000"], found["float32 10000000"]
    assert (
        expected["grad_norm"] < 1e-4
    )  # a sixteenth of it, on a parameter, is below what float16 can hold
    assert small["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.02)
    assert (small["skipped"], small["scale_before"]) == (0, 65536)
    large = found["float16 1"]
    assert large["skipped"] == 1
    assert large["scale_after"] < large["scale_before"]
    assert found["float32 1"]["skipped"] == 0
