"""The DeepSpeed configuration: what the spec fills in, and what is refused before a start."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dskd_ds.costs.zero_settings import zero_settings
from dskd_ds.errors import InputError
from dskd_ds.spec import load_spec
from dskd_ds.student.ds_config import OWNED_BY_SPEC, deepspeed_config, read_deepspeed_json

BASE = "tests/base_run.toml"
SHIPPED = sorted(Path("ds_configs").glob("zero*.json"))
no_gpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="tests machines without a GPU")


def config_of(*overrides: str) -> dict[str, object]:
    return deepspeed_config(load_spec(BASE, overrides))


def written(folder: Path, **zero: object) -> str:
    path = folder / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3} | zero}))
    return f"deepspeed={path}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_deepspeed_accepts_the_shipped_files(path: Path) -> None:
    """With everything that the spec adds; quantised communication needs a GPU only to run."""
    from deepspeed.runtime.config import DeepSpeedConfig

    content = read_deepspeed_json(str(path))
    config = DeepSpeedConfig(config_of() | content | {"train_batch_size": None})
    assert config.zero_config.stage == content["zero_optimization"]["stage"]
    assert f"`{path.name}`" in Path("ds_configs/README.md").read_text()


@pytest.mark.parametrize("key", OWNED_BY_SPEC)
def test_a_key_of_the_spec_is_refused_in_the_json(tmp_path: Path, key: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}, key: {"a": 1}}))
    reason = f'{key} = {{"a": 1}}, but the run spec sets this in {OWNED_BY_SPEC[key]}.'
    with pytest.raises(InputError, match=rf"{re.escape(reason)}\n  remove {key}"):
        read_deepspeed_json(str(path))


@pytest.mark.parametrize("content", ["{}", '{"zero_optimization": {"stage": 4}}'])
def test_a_missing_or_unknown_stage_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"zero_optimization\.stage = (None|4) is invalid"):
        read_deepspeed_json(str(path))


def test_auto_stands_for_what_the_spec_or_deepspeed_sets(tmp_path: Path) -> None:
    """As in a file for Hugging Face's Trainer; what is not "auto" there is still the spec's."""
    path = tmp_path / "mine.json"
    zero = {"stage": 3, "reduce_bucket_size": "auto", "offload_param": None}
    zero |= {"zero_hpz_partition_size": "auto", "offload_optimizer": {"device": "auto"}}
    content: dict[str, Any] = {"zero_optimization": zero, "train_batch_size": "auto"}
    content |= {"bf16": {"enabled": "auto"}, "gradient_clipping": "auto"}
    path.write_text(json.dumps(content))
    assert read_deepspeed_json(str(path)) == {"zero_optimization": {"stage": 3}}
    assert zero_settings(str(path)).reduce_bucket == 500_000_000
    assert config_of(f"deepspeed={path}")["train_batch_size"] == 2

    path.write_text(json.dumps(content | {"fp16": {"enabled": "auto", "loss_scale": 0}}))
    with pytest.raises(InputError, match=r"\[student\] dtype.\n  remove fp16"):
        read_deepspeed_json(str(path))


@pytest.mark.parametrize("value", ["5e8", True, [1], float("inf")])
def test_another_value_than_a_number_is_refused(tmp_path: Path, value: object) -> None:
    """Both by the plan and by the checks before a run."""
    setting = written(tmp_path, reduce_bucket_size=value)
    file = tmp_path / "mine.json"
    reason = f"{file}: zero_optimization.reduce_bucket_size = {json.dumps(value)}, but it is not"
    for read in (zero_settings, read_deepspeed_json):
        with pytest.raises(InputError, match=re.escape(reason)):
            read(str(file))
    with pytest.raises(InputError, match="write a number, or remove the entry"):
        config_of(setting)


def test_an_offload_that_is_no_section_is_refused(tmp_path: Path) -> None:
    written(tmp_path, offload_optimizer="cpu")
    with pytest.raises(InputError, match=r"offload_optimizer = \"cpu\", but it is not a section"):
        zero_settings(str(tmp_path / "mine.json"))


def test_number_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: True, raising=False)
    for dtype, bf16, fp16 in (
        ("float32", False, False),
        ("bfloat16", True, False),
        ("float16", False, True),
    ):
        config = config_of(f"student.dtype={dtype}")
        assert (config["bf16"], config["fp16"]) == (
            {"enabled": bf16},
            {"enabled": fp16, "loss_scale": 0},
        )


@no_gpu
@pytest.mark.parametrize(
    "key",
    ["zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights"],
)
def test_quantised_communication_needs_a_gpu(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=rf"{key} = true, but this machine has no GPU"):
        config_of(written(tmp_path, **{key: True}))


BF16 = ("student.dtype=bfloat16", "student.precision=bf16")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_precision_keeps_no_float32(tmp_path: Path, stage: int) -> None:
    config = config_of(*BF16, written(tmp_path, stage=stage))
    assert config["bf16"] == {
        "enabled": True,
        "bf16_master_weights_and_grads": True,
        "bf16_optimizer_states": True,
    }


def test_bf16_precision_needs_a_zero_stage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'precision = "bf16", but .* has ZeRO stage 0'):
        config_of(*BF16, written(tmp_path, stage=0))


@no_gpu
def test_bf16_precision_cannot_be_offloaded_without_a_gpu(tmp_path: Path) -> None:
    offloaded = written(tmp_path, offload_optimizer={"device": "cpu"})
    with pytest.raises(InputError, match=r'precision = "bf16", but .* offloads the optimizer'):
        config_of(*BF16, offloaded)
    config_of(*BF16, written(tmp_path, offload_optimizer={"device": "none"}))


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
def test_bf16_precision_is_of_a_bfloat16_student(dtype: str) -> None:
    with pytest.raises(InputError, match=f'precision = "bf16", but dtype = "{dtype}"'):
        config_of("student.precision=bf16", f"student.dtype={dtype}")


@no_gpu
@pytest.mark.skipif(
    torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this CPU has fp16 instructions"
)
def test_fp16_needs_instructions() -> None:
    with pytest.raises(InputError, match='dtype = "float16", but this machine has no GPU'):
        config_of("student.dtype=float16")


def test_fp16_needs_zero(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ZeRO stage 0"):
        config_of("student.dtype=float16", written(tmp_path, stage=0))


def test_hpz_groups_must_have_equal_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not divide"):
        config_of(
            written(tmp_path, zero_hpz_partition_size=2),
            "topology.num_students=3",
            "train.global_batch_blocks=3",
        )
    config_of(written(tmp_path, zero_hpz_partition_size=8))  # one group of both students


def test_batch_sizes_come_from_the_spec() -> None:
    config = config_of("train.global_batch_blocks=8", "train.micro_batch_blocks=2")
    assert (
        config["train_batch_size"],
        config["train_micro_batch_size_per_gpu"],
        config["gradient_accumulation_steps"],
    ) == (8, 2, 2)


@pytest.mark.parametrize(
    ("key", "zero"),
    [
        ("offload_optimizer.device", {"offload_optimizer": {"device": "nvme"}}),
        ("offload_param.device", {"offload_param": {"device": "nvme"}}),
        ("offload_optimizer.ratio", {"offload_optimizer": {"device": "cpu", "ratio": 0.5}}),
        ("offload_optimizer.super_offload", {"offload_optimizer": {"super_offload": True}}),
        ("zenflow", {"zenflow": {}}),
        ("mics_shard_size", {"mics_shard_size": 2}),
    ],
)
def test_state_that_no_checkpoint_can_hold_is_refused_by_key(
    tmp_path: Path, key: str, zero: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=rf"zero_optimization\.{re.escape(key)} "):
        config_of(written(tmp_path, **zero))
