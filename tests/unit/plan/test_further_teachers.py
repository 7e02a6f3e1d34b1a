"""[[teachers]] before a run starts: what is refused, what the plan and a dry run count."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.costs.capacity import Capacity
from dskd_ds.costs.fit import needs
from dskd_ds.costs.memory import teacher_memory
from dskd_ds.costs.run_shapes import run_shapes
from dskd_ds.errors import InputError
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.models.routed import further_teachers, served_teacher, teacher_of_name
from dskd_ds.plan.allocation import allocate
from dskd_ds.plan.further_teachers import check_further_teachers, further_lines
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.teacher.__main__ import check_teacher_name
from tests.conftest import TinyWorld, write_model
from tests.unit.models.test_layers import gpt2


def routed(tiny: TinyWorld, teacher: dict[str, Any], *overrides: str) -> RunSpec:
    """Return the tiny spec with a second source, for a further teacher."""
    entry = ", ".join(f"{key}={json.dumps(value)}" for key, value in teacher.items())
    return load_spec(
        tiny.spec_file,
        [
            f'data.train=[{{path="{tiny.folder}/train.jsonl", weight=2}},'
            f' {{path="{tiny.folder}/heldout.jsonl", weight=1, teacher="wide"}}]',
            f'teachers=[{{name="wide", {entry}}}]',
            "topology.num_teachers=4",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def wide(tiny: TinyWorld) -> Path:
    """A wider teacher with the tiny world's tokenizer, and rows that only pad its vocabulary."""
    folder = tiny.folder / "wide"
    return write_model(folder, tiny.folder, num_layers=1, seed=1, hidden_size=64, extra_rows=5)


def test_each_teacher_serves_under_a_spec_of_its_own(tiny: TinyWorld, wide: Path) -> None:
    spec = routed(tiny, {"model": str(wide), "dtype": "float32", "replicas": 2, "weight": 0.5})
    models = RunModels.of(spec)
    check_further_teachers(spec, models)
    (further,) = further_teachers(spec, models)
    main = teacher_of_name(spec, models, "main")
    names = [served_teacher(spec, models, number).name for number in range(4)]
    assert names == ["wide", "wide", "main", "main"]
    assert (main.spec, main.models, main.link_root) == (spec, models, Path(spec.run_dir))
    assert further.link_root == Path(spec.run_dir) / "teachers" / "wide"
    assert (further.spec.teacher.model, further.spec.teacher.dtype) == (str(wide), "float32")
    assert spec.uses_senses
    assert not further.spec.uses_senses
    # Its padding is more than the student has, so it serves only the student's rows.
    assert further.models.teacher.vocab_size == models.teacher.vocab_size + 5
    assert further.models.shared_vocab_size == models.teacher.vocab_size
    fingerprints = {reply_fingerprint(one.spec, one.models, "cpu") for one in (main, further)}
    assert len(fingerprints) == 2
    assert further_lines(spec) == [
        f"teacher wide: {wide}, 2 replicas, weight 0.5, asked about {tiny.folder}/heldout.jsonl"
    ]


def test_a_teacher_with_another_tokenizer_is_refused(tiny: TinyWorld, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "quite other words"}) + "\n")
    other = write_model(tmp_path / "other", tmp_path, num_layers=1, seed=1)
    spec = routed(tiny, {"model": str(other)})
    message = (
        f'[teachers] wide: model = "{other}", but its vocabulary is not that of [teacher]'
        f" ({tiny.folder / 'teacher'}).\n  name a teacher with the same tokenizer"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        check_further_teachers(spec, RunModels.of(spec))


def test_a_teacher_that_reads_too_little_is_refused(
    tiny: TinyWorld, wide: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short"
    short.mkdir()
    for file in wide.iterdir():
        (short / file.name).symlink_to(file)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").unlink()
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 24}))
    for change, message in (
        ("data.block_tokens=32", "block_tokens = 32, but the teacher wide reads at most 24 tokens"),
        ("data.packing=none", 'packing = "none" gives rows that [teacher] and the student read'),
    ):
        spec = routed(tiny, {"model": str(short)}, "data.block_tokens=16", change)
        with pytest.raises(InputError, match=re.escape(message)):
            check_further_teachers(spec, RunModels.of(spec))


def test_a_teacher_that_cannot_be_compiled_is_refused(tiny: TinyWorld, tmp_path: Path) -> None:
    other = gpt2(tiny, tmp_path / "gpt2")
    spec = routed(tiny, {"model": str(other)})
    check_further_teachers(spec, RunModels.of(spec))
    compiled = routed(tiny, {"model": str(other)}, "teacher.compile=true")
    with pytest.raises(
        InputError, match=r"\[teachers\] wide: model: GPT2LMHeadModel does not keep"
    ):
        check_further_teachers(compiled, RunModels.of(compiled))


def test_the_plan_counts_the_memory_of_each_teacher(tiny: TinyWorld, wide: Path) -> None:
    spec = routed(tiny, {"model": str(wide), "dtype": "float32", "replicas": 3})
    shapes = run_shapes(spec)
    assert [shape.hidden_size for shape in shapes.further_teachers] == [64]
    main = teacher_memory(spec, shapes, "cpu").total
    served = served_teacher(spec, RunModels.of(spec), 0).spec
    own_shapes = replace(shapes, teacher=shapes.further_teachers[0])
    own = teacher_memory(served, own_shapes, "cpu").total
    assert own != main
    here = Capacity(gpu_bytes=0, num_gpus=0, host_bytes=1e12, source="test")
    (with_both,) = needs(spec, shapes, here)
    one = spec.topology.model_copy(update={"num_teachers": 5})
    (with_one_more,) = needs(spec.model_copy(update={"topology": one}), shapes, here)
    process = with_one_more.added - with_both.added - main
    others = with_both.added - main - 3 * own - 6 * process
    no_teachers = spec.topology.model_copy(update={"num_teachers": 0})
    (alone,) = needs(spec.model_copy(update={"topology": no_teachers}), shapes, here)
    assert others == pytest.approx(alone.added - 2 * process)
    gpus = Capacity(gpu_bytes=1e12, num_gpus=8, host_bytes=1e12, source="test")
    assert "a GPU of teacher wide" in [need.what for need in needs(spec, shapes, gpus)]


def test_a_job_has_more_teachers_than_the_further_ones(tiny: TinyWorld, wide: Path) -> None:
    spec = routed(tiny, {"model": str(wide), "replicas": 3}, "topology.num_teachers=0")
    assert allocate(spec, ranks_per_node=8, num_teachers=4).num_teachers == 4
    with pytest.raises(InputError, match=r"--num-teachers 3: .* are 3 of them.*\n  give 4"):
        allocate(spec, ranks_per_node=8, num_teachers=3)


def test_a_teacher_on_its_own_must_know_which_it_is(tiny: TinyWorld, wide: Path) -> None:
    spec = routed(tiny, {"model": str(wide)})
    check_teacher_name(spec, "wide", None)
    check_teacher_name(spec, None, 0)
    with pytest.raises(InputError, match="add --teacher NAME, one of: main, wide"):
        check_teacher_name(spec, None, None)
    with pytest.raises(InputError, match=r"--teacher code: .*no teacher of this name"):
        check_teacher_name(spec, "code", 0)
    check_teacher_name(load_spec(tiny.spec_file), None, None)
