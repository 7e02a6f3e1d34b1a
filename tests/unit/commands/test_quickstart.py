"""Which stages of `dskd quickstart` are done, when it is called again with other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd_ds.commands.quickstart import quickstart, stages
from dskd_ds.errors import InputError
from dskd_ds.spec import SPEC_FILE, RunSpec, load_spec, write_spec
from dskd_ds.student.resume_settings import refuse_another_run
from tests.unit.commands.test_watch import checkpoint

SPEC = "ds_configs/runs/quickstart.toml"


@pytest.fixture
def trained(tmp_path: Path) -> RunSpec:
    """A run directory as the training leaves it; the spec that was trained."""
    spec = load_spec(SPEC, [f"run_dir={tmp_path}"])
    write_spec(spec, tmp_path / SPEC_FILE)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": spec.train.num_steps}) + "\n")
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "config.json").write_text("{}")
    checkpoint(tmp_path / "checkpoints" / "step-00000040")
    return spec


def again(trained: RunSpec, *overrides: str) -> tuple[RunSpec, bool]:
    """Return the spec of a further call, and whether its stage `training` is done."""
    spec = load_spec(SPEC, [f"run_dir={trained.run_dir}", *overrides])
    (training,) = (stage for stage in stages(spec, []) if stage.name == "training")
    return spec, training.is_done()


def test_the_same_settings_are_not_trained_again(trained: RunSpec) -> None:
    assert again(trained)[1]
    assert again(trained, "eval.num_samples=1", "checkpoint.keep=1", "topology.num_teachers=2")[1]


def test_more_steps_go_on(trained: RunSpec) -> None:
    spec, is_done = again(trained, "train.num_steps=41")
    assert not is_done
    refuse_another_run(spec)


@pytest.mark.parametrize(
    "override", ["loss.sense_weight=0.0", "senses.num_senses=2", "student.num_layers=10", "seed=7"]
)
def test_other_settings_are_refused_before_the_first_stage(
    trained: RunSpec, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later stage would build the dictionary anew, in the folder of the run that is there."""
    assert not again(trained, override)[1]
    with pytest.raises(InputError, match="this run was started with other values of"):
        quickstart([f"run_dir={trained.run_dir}", override])
    assert not capsys.readouterr().out
