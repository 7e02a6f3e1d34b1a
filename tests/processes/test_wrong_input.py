"""Each mistake ends a launch with its exit code and one clear message, and leaves no process."""

from __future__ import annotations

import json

import pytest
import tomli_w

from dskd_ds.runtime.arguments import override_argv
from tests.conftest import TinyWorld, write_model
from tests.processes.conftest import Launch, deepspeed, ranks

pytestmark = [pytest.mark.process, pytest.mark.fault]
TRAIN = "dskd_ds/train.py"


def test_a_missing_spec_is_reported_once(launch: Launch, tiny: TinyWorld) -> None:
    ended = launch(*deepspeed(3, TRAIN, "--spec", str(tiny.folder / "nowhere.toml")))
    assert ended.code == 2
    assert ended.output.count("there is no such file") == 1
    assert "Traceback" not in ended.output


def test_an_unknown_key_suggests_the_closest_one(launch: Launch, tiny: TinyWorld) -> None:
    ended = launch(*deepspeed(3, TRAIN, "--spec", str(tiny.spec_file), "--set", "loss.topk=3"))
    assert ended.code == 2
    assert ended.output.count("did you mean top_k?") == 1
    assert "Traceback" not in ended.output


def test_a_wrong_number_of_ranks_is_refused(launch: Launch, tiny: TinyWorld) -> None:
    ended = launch(*deepspeed(2, TRAIN, "--spec", str(tiny.spec_file)))
    assert ended.code == 2
    assert "the launch has 2 ranks" in ended.output


@pytest.mark.usefixtures("dictionary")
def test_a_student_with_another_vocabulary_is_refused(launch: Launch, tiny: TinyWorld) -> None:
    other = tiny.folder / "other"
    write_model(other, tiny.folder, num_layers=1, seed=1)
    # The same tokens, so the same size, but in the reverse order of ids.
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    last_id = len(vocabulary) - 1
    content["model"]["vocab"] = {token: last_id - i for token, i in vocabulary.items()}
    (other / "tokenizer.json").write_text(json.dumps(content))
    tree = tiny.spec_tree() | {
        "student": {"model": str(other)},
        "run_dir": str(tiny.folder / "vocabulary"),
    }
    path = tiny.folder / "vocabulary.toml"
    path.write_text(tomli_w.dumps(tree))
    ended = launch(*ranks(3, TRAIN, "--spec", str(path)))
    assert ended.code == 2
    assert "vocabulary" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.usefixtures("dictionary")
def test_a_run_without_a_teacher_saves_and_ends(launch: Launch, tiny: TinyWorld) -> None:
    run_dir = tiny.folder / "alone"
    overrides = (
        f"run_dir={run_dir}",
        "topology.num_teachers=0",
        "link.teacher_wait_seconds=5.0",
        "student.layers=first",
    )
    argv = ["--spec", str(tiny.spec_file), *override_argv(overrides)]
    ended = launch(*ranks(2, TRAIN, *argv))
    assert ended.code == 4
    assert "no teacher came" in ended.output
    assert "Traceback" not in ended.output
    assert (run_dir / "checkpoints" / "step-00000000" / "manifest.json").is_file()
