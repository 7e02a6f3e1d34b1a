"""The models of a spec are resolved once, and errors name the key that names the model."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.costs.traffic import plan_line
from dskd_ds.data.blocks import heldout_blocks, train_blocks
from dskd_ds.errors import InputError
from dskd_ds.models import named
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.models.resolve import load_tokenizer, model_fingerprint, tokenizer_fingerprint
from dskd_ds.plan.preflight import preflight
from dskd_ds.senses.build.collect import collection_layout
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.depth import student_init
from tests.conftest import TinyWorld, write_model


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often each (function, path) was called by named models."""
    counts: Counter[tuple[str, str]] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(model: str, *args: Any) -> Any:
            counts[name, model] += 1
            return function(model, *args)

        return call

    for name in ("resolve_model", "read_config", "load_tokenizer", "model_fingerprint"):
        monkeypatch.setattr(named, name, counted(name, getattr(named, name)))
    return counts


def test_a_run_reads_each_model_once(
    tiny: TinyWorld, tmp_path: Path, reads: Counter[tuple[str, str]]
) -> None:
    overrides = ["loss.sense_weight=0", f"run_dir={tmp_path / 'run'}"]
    spec = load_spec(tiny.spec_file, overrides)
    models = RunModels.of(spec)
    assert not reads  # nothing is read before it is needed
    preflight(spec, models)
    plan_line(spec, models.teacher)
    student_init(spec, models)
    train_blocks(spec.data, models.teacher.tokenizer)
    heldout_blocks(spec.data, models.teacher.tokenizer)
    collection_layout(models.teacher, spec.senses.vectors_per_token)
    teacher = spec.teacher.model
    assert reads == {
        (name, teacher): 1
        for name in ("resolve_model", "read_config", "load_tokenizer", "model_fingerprint")
    }


def test_a_student_with_its_own_model_is_read_once_too(
    tiny: TinyWorld, tmp_path: Path, reads: Counter[tuple[str, str]]
) -> None:
    folder = write_model(tmp_path / "student", tiny.folder, num_layers=1, seed=1, extra_rows=3)
    tree: Any = tiny.spec_tree()
    tree["student"] = {"model": str(folder), "dtype": "float32"}
    tree["loss"]["sense_weight"] = 0.0
    spec = RunSpec.model_validate(tree)
    models = RunModels.of(spec)
    assert models.student == NamedModel.of_student(str(folder), spec.student)
    preflight(spec, models)
    assert student_init(spec, models) is models.student
    assert models.shared_vocab_size == models.teacher.vocab_size == models.student.vocab_size - 3
    assert set(reads.values()) == {1}
    assert ("read_config", str(folder)) in reads


def test_a_named_model_has_the_properties_of_its_files(tiny: TinyWorld) -> None:
    model = RunModels.of(load_spec(tiny.spec_file)).teacher
    folder = str(tiny.folder / "teacher")
    assert model.path == folder
    assert model.fingerprint == model_fingerprint(folder)
    assert model.tokenizer_fingerprint == tokenizer_fingerprint(load_tokenizer(folder))
    config = model.config
    assert (model.num_layers, model.hidden_size) == (config.num_hidden_layers, config.hidden_size)


def test_cutting_leaves_the_shared_configuration_alone(tiny: TinyWorld, tmp_path: Path) -> None:
    overrides = ["student.layers=first", "student.num_layers=2", f"run_dir={tmp_path / 'run'}"]
    spec = load_spec(tiny.spec_file, overrides)
    models = RunModels.of(spec)
    before = models.teacher.config.to_dict()
    assert student_init(spec, models).num_layers == 2
    assert models.teacher.config.to_dict() == before
    assert models.teacher.num_layers == 4


@pytest.mark.parametrize("key", ["[teacher] model", "[student] model", "--model"])
def test_a_wrong_name_is_reported_under_its_key(key: str) -> None:
    with pytest.raises(InputError) as caught:
        NamedModel("./nowhere", key=key).locate()
    assert str(caught.value).startswith(f'{key} = "./nowhere", but there is no such folder.')


def test_naming_models_loads_no_torch() -> None:
    code = "import sys, dskd_ds.models.named; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
