"""All shipped DeepSpeed configurations that a CPU can run train to the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, ranks, warm_dskd

pytestmark = [pytest.mark.process, pytest.mark.slow]

SAME = ("loss", "loss_ce", "loss_kd", "grad_norm", "teacher_mass", "student_mass")
PLAIN = (
    "loss.sense_weight=0",
    "student.layers=first",
    "train.num_steps=3",
    "monitor.tensorboard=false",
)


def overrides_of(tiny: TinyWorld, name: str, *overrides: str) -> list[str]:
    """Return the overrides of a run with that name, as arguments."""
    run_dir = tiny.folder / f"configs-{name}"
    return override_argv([*PLAIN, f"run_dir={run_dir}", *overrides])


def train(tiny: TinyWorld, launch: Launch, name: str, *overrides: str) -> list[dict[str, float]]:
    """Return the metrics of three steps on two students and a teacher.

    Each step has two accumulation steps. The run of each name is trained once per session.
    """
    run_dir = tiny.folder / f"configs-{name}"
    if not (run_dir / "student").is_dir():
        argv = ["--spec", str(tiny.spec_file), *overrides_of(tiny, name, *overrides)]
        assert launch(*ranks(3, "dskd_ds/train.py", *argv)).code == 0
    records = read_metrics(run_dir)
    assert len(records) == 3
    return records


def hpz_alone(folder: Path) -> str:
    """Return the path of a zero_pp.json without the CUDA-only features, for a node of two ranks."""
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
    overrides = (*(switch for part, switch in switches.items() if part in name), *frozen)
    if not overrides:
        config = hpz_alone(tiny.folder) if name == "hpz" else f"ds_configs/{name}.json"
        overrides = (f"deepspeed={config}",)
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
def test_a_checkpoint_exports_the_same_student_as_training(
    tiny: TinyWorld, launch: Launch, name: str, overrides: tuple[str, ...]
) -> None:
    """Up to stage 2 a checkpoint has one file with the student (stage 3: test_end_to_end.py)."""
    overrides = (f"deepspeed=ds_configs/{name.split('-')[0]}.json", *overrides)
    train(tiny, launch, name, *overrides)
    path = tiny.folder / f"configs-{name}" / "student" / "model.safetensors"
    trained = load_file(path)
    path.unlink()
    argv = [str(tiny.spec_file), *overrides_of(tiny, name, *overrides)]
    assert launch(*warm_dskd("export", *argv)).code == 0
    exported = load_file(path)
    assert exported.keys() == trained.keys()
    assert all((exported[name] == trained[name]).all() for name in trained)


def test_bf16_losses_are_close_to_float32(tiny: TinyWorld, launch: Launch) -> None:
    expected = train(tiny, launch, "zero3_cpu")
    found = train(tiny, launch, "bf16", "deepspeed=ds_configs/zero3.json", "student.dtype=bfloat16")
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.02)
        assert mine["loss"] != theirs["loss"]


def test_quantised_communication_needs_a_gpu(tiny: TinyWorld, launch: Launch) -> None:
    argv = overrides_of(tiny, "zero_pp", "deepspeed=ds_configs/zero_pp.json")
    ended = launch(*ranks(3, "dskd_ds/train.py", "--spec", str(tiny.spec_file), *argv))
    assert ended.code == 2
    assert ended.output.count("DeepSpeed has the kernels for CUDA only") == 1
    assert "Traceback" not in ended.output


def test_fp16_gradients_do_not_vanish_and_overflows_are_skipped(
    tiny: TinyWorld, launch: Launch, tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    argv = ["--model", str(tiny.folder / "teacher"), "--out", str(out)]
    command = ranks(1, "-m", "tests.processes.fp16_worker", *argv)
    assert launch(*command, marker=str(out)).code == 0
    found = json.loads(out.read_text())
    small, expected = found["float16 10000000"], found["float32 10000000"]
    # A parameter's gradient may be a sixteenth of it, which is below the range of float16.
    assert expected["grad_norm"] < 1e-4
    assert small["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.02)
    assert (small["skipped"], small["scale_before"]) == (0, 65536)
    large = found["float16 1"]
    assert large["skipped"] == 1
    assert large["scale_after"] < large["scale_before"]
    assert found["float32 1"]["skipped"] == 0
