"""Copies of a chat model stop where it does: its end of turn may be in generation_config.json only.

A cut, its repair and the export each write a folder from another one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dskd_ds.models.cut import cut
from dskd_ds.models.generation import end_ids_of
from dskd_ds.models.named import NamedModel
from dskd_ds.models.replace import copy_with
from dskd_ds.student.export import write_student
from tests.conftest import TinyWorld


def end_ids(folder: Path) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return end_ids_of(model, NamedModel(str(folder)).tokenizer)


def test_each_copy_of_a_model_ends_its_turns(tiny: TinyWorld, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny.folder / "teacher", teacher)
    before = end_ids(teacher)
    # transformers would not save the temperature of a model that does not sample.
    settings = {"eos_token_id": [5, 7], "do_sample": False, "temperature": 0.6}
    (teacher / "generation_config.json").write_text(json.dumps(settings))
    cut(NamedModel(str(teacher)), [0, 2], tmp_path / "cut")
    init = NamedModel(str(tmp_path / "cut"))
    (tmp_path / "repaired").mkdir()
    copy_with(init, {}, tmp_path / "repaired")
    weights = load_file(tmp_path / "cut" / "model.safetensors")
    write_student(init, init.tokenizer, weights, tmp_path / "student")
    for copy in ("cut", "repaired", "student"):
        assert {5, 7} <= set(end_ids(tmp_path / copy)), copy
    assert not {5, 7} & set(before)


def test_a_model_without_such_settings_is_copied_as_before(tiny: TinyWorld, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny.folder / "teacher", teacher)
    (teacher / "generation_config.json").unlink()
    fingerprint = NamedModel(str(teacher)).fingerprint
    assert fingerprint == NamedModel(str(tiny.folder / "teacher")).fingerprint
    cut(NamedModel(str(teacher)), [0, 2], tmp_path / "cut")
    assert not (tmp_path / "cut" / "generation_config.json").exists()
