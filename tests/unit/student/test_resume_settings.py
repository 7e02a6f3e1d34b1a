"""Which runs may be resumed: settings that decide results must stay, others may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.spec import SPEC_FILE, RunSpec, load_spec, write_spec
from dskd_ds.student.checkpoint.folders import checkpoint_dir
from dskd_ds.student.resume_settings import refuse_another_run


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    """The spec of a run that has a complete checkpoint."""
    spec = load_spec("tests/base_run.toml", [f"run_dir={tmp_path}"])
    write_spec(spec, tmp_path / SPEC_FILE)
    tag = checkpoint_dir(spec) / "step-00000003"
    tag.mkdir(parents=True)
    (tag / "manifest.json").write_text("{}")
    return spec


def changed(spec: RunSpec, *overrides: str) -> RunSpec:
    """Return the spec with other values."""
    return load_spec(Path(spec.run_dir) / SPEC_FILE, overrides)


def test_settings_that_decide_results_must_stay(spec: RunSpec) -> None:
    overrides = ("seed=9", "optimizer.lr=0.5", "student.train_last_layers=1")
    with pytest.raises(
        InputError, match=r"other values of seed, student\.train_last_layers, optimizer\.lr\.\n"
    ):
        refuse_another_run(changed(spec, *overrides, "student.compile=true"))
    checkpoint_dir(spec).rename(Path(spec.run_dir) / "elsewhere")
    refuse_another_run(changed(spec, *overrides))  # nothing was saved yet


@pytest.mark.parametrize(
    "override",
    [
        "run_dir=elsewhere",
        "train.num_steps=77",
        "student.compile=true",
        "teacher.compile=true",
        "student.activation_checkpointing=true",
        "senses.local_dir=/dev/shm",
        "senses.collection_dir=kept",
        "topology.num_teachers=3",
        "link.credits=7",
        "checkpoint.keep=9",
        "monitor.tensorboard=false",
        "eval.num_tokens=5",
    ],
)
def test_settings_that_decide_no_result_may_change(
    spec: RunSpec, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    now = changed(spec, override)
    assert now != spec
    # Compared with the stored spec of the first run, whatever the new run's folder is.
    refuse_another_run(now.model_copy(update={"run_dir": spec.run_dir}))
    assert capsys.readouterr().err == ""


def test_other_numbers_of_threads_are_a_warning(
    spec: RunSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = spec.topology.threads_per_rank
    refuse_another_run(changed(spec, "topology.threads_per_rank=7"))
    message = capsys.readouterr().err
    assert f"topology.threads_per_rank was {threads} and is now 7: sums round" in message


def test_another_side_that_chooses_senses_is_a_warning(
    spec: RunSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_another_run(changed(spec, "senses.retrieve_on=teacher"))
    assert "a teacher chooses senses by its own states" in capsys.readouterr().err


def test_the_number_format_on_the_wire_must_stay(spec: RunSpec) -> None:
    with pytest.raises(InputError, match=r"other values of link\.hidden_format\.\n"):
        refuse_another_run(changed(spec, "link.hidden_format=float8"))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("topology.num_students=1", "topology.num_students"),
        ("deepspeed=zero2.json", "deepspeed"),
    ],
)
def test_another_world_or_stage_is_a_warning(
    spec: RunSpec, override: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_another_run(changed(spec, override))
    assert f"{key} was" in capsys.readouterr().err


def test_another_world_is_refused_if_the_learning_rate_depends_on_it(spec: RunSpec) -> None:
    scaled = changed(spec, "optimizer.scale_lr_by_ranks=true")
    write_spec(scaled, Path(spec.run_dir) / SPEC_FILE)
    with pytest.raises(InputError, match="scale_lr_by_ranks multiplies the learning rate by it"):
        refuse_another_run(changed(spec, "topology.num_students=1"))


@pytest.mark.parametrize("override", ["data.block_tokens=128", "loss.top_k=7"])
def test_what_decides_the_requests_must_stay(spec: RunSpec, override: str) -> None:
    key = override.split("=")[0]
    with pytest.raises(InputError, match=f"other values of {key}"):
        refuse_another_run(changed(spec, override))
