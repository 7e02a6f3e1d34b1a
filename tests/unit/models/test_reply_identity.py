"""A teacher's fingerprint names all that its replies depend on, without loading the weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld


def fingerprint(tiny: TinyWorld, *overrides: str, device_type: str = "cpu") -> str:
    spec = load_spec(tiny.spec_file, list(overrides))
    return reply_fingerprint(spec, RunModels.of(spec), device_type)


def test_the_kernel_is_the_loaded_models(tiny: TinyWorld) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.folder / "teacher")
    assert f"-{model.config._attn_implementation}-" in fingerprint(tiny)


@pytest.mark.parametrize("override", ["teacher.dtype=bfloat16", "teacher.compile=true"])
def test_another_setting_is_another_teacher(tiny: TinyWorld, override: str) -> None:
    assert fingerprint(tiny, override) != fingerprint(tiny)


def test_a_student_with_fewer_tokens_has_replies_over_fewer(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    spec = load_spec(tiny.spec_file)
    config = (tiny.folder / "teacher" / "config.json").read_text()
    size = f'"vocab_size": {RunModels.of(spec).teacher.vocab_size}'
    (tmp_path / "config.json").write_text(config.replace(size, '"vocab_size": 20'))
    models = RunModels(RunModels.of(spec).teacher, NamedModel(str(tmp_path)))
    assert models.shared_vocab_size == 20
    assert reply_fingerprint(spec, models, "cpu") != fingerprint(tiny)


def test_another_device_is_another_teacher_and_settings_of_the_run_are_not(
    tiny: TinyWorld,
) -> None:
    assert fingerprint(tiny, device_type="cuda") != fingerprint(tiny)
    same = ("loss.top_k=3", "train.micro_batch_blocks=1", "teacher.block_by_block=true", "seed=9")
    assert fingerprint(tiny, *same) == fingerprint(tiny)


def test_one_byte_of_the_weights_makes_another_teacher(tiny: TinyWorld, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.folder / "teacher", tmp_path / "teacher")
    before = fingerprint(tiny, f"teacher.model={folder}")
    assert before == fingerprint(tiny)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size - 7)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    assert fingerprint(tiny, f"teacher.model={folder}") != before
