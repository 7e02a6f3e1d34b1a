"""Through the real launcher, each mistake ends in its exit code and one clear message, with no process left."""

from __future__ import annotations

import json

import pytest
import tomli_w

from tests.conftest import TinyWorld, write_model
from tests.processes.conftest import Launch, deepspeed, mpirun

pytestmark = [pytest.mark.process, pytest.mark.fault]
TRAIN = "dskd_ds/train.py"


def test_missing_spec(launch: Launch, tiny: TinyWorld) -> None:
    ended = launch(*deepspeed(3, TRAIN, "--spec", str(tiny.folder / "nowhere.toml")))
    assert ended.code == 2
    assert ended.output.count("there is no such file") == 1
    assert "Traceback" not in ended.output


def test_wrong_key(launch: Launch, tiny: TinyWorld) -> None:
    ended = launch(*deepspeed(3, TRAIN, "--spec", str(tiny.spec_file), "--set", "loss.topk=3"))
    assert ended.code == 2
    assert ended.output.count("did you mean top_k?") == 1
    assert "Traceback" not in ended.output


def test_wrong_number_of_ranks(launch: Launch, tiny: TinyWorld) -> None:
    ended = launch(*deepspeed(2, TRAIN, "--spec", str(tiny.spec_file)))
    assert ended.code == 2
    assert "the launch has 2 ranks" in ended.output


@pytest.mark.usefixtures("dictionary")
def test_vocabulary_of_another_model(launch: Launch, tiny: TinyWorld) -> None:
    other = tiny.folder / "other"
    write_model(other, tiny.folder, num_layers=1, seed=1)
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["vocab"] = {
        token: (len(content["model"]["vocab"]) - 1 - i)
        for token, i in content["model"]["vocab"].items()
    }
    (other / "tokenizer.json").write_text(json.dumps(content))
    tree = tiny.spec_tree() | {
        "student": {"model": str(other)},
        "run_dir": str(tiny.folder / "vocabulary"),
    }
    path = tiny.folder / "vocabulary.toml"
    path.write_text(tomli_w.dumps(tree))
    ended = launch(*mpirun(3, TRAIN, "--spec", str(path)))
    assert ended.code == 2
    assert "vocabulary" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.usefixtures("dictionary")
def test_a_teacher_that_never_comes(launch: Launch, tiny: TinyWorld) -> None:
    words = [
        word
        for key in (
            f"run_dir={tiny.folder / 'alone'}",
            "topology.num_teachers=0",
            "link.teacher_wait_seconds=5.0",
            "student.layers=first",
        )
        for word in ("--set", key)
    ]
    ended = launch(*mpirun(2, TRAIN, "--spec", str(tiny.spec_file), *words))
    assert ended.code == 4
    assert "no teacher came" in ended.output
    assert "Traceback" not in ended.output
    assert (
        tiny.folder / "alone" / "checkpoints" / "step-00000000" / "manifest.json"
    ).is_file()  # saved first
