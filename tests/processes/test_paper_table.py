"""`dskd paper RECIPE` on the tiny world: killed in several stages, and called again each time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, Start, dskd, wait_until
from tests.processes.test_tasks import TEMPLATE
from tests.unit.evaluation.tasks.test_questions import quartz_rows, write_rows

pytestmark = [pytest.mark.process, pytest.mark.slow]

RECIPE = """\
name = "trial"
base = "{base}"
folder = "{folder}"
seeds = [0]
dev_share = 0.0
baselines = true

[[prepare]]
name = "questions"
command = [
  "data", "questions", "{{base}}", "--output", "{{folder}}/questions", "--tasks", "quartz",
  "--data-dir", "{data}", "--max-prompt-tokens", "240", "--max-shots", "1",
  "--train-tokens", "4000", "--test-questions", "8",
]
makes = ["{{folder}}/questions/counts.json"]

[tasks]
names = ["quartz"]
data_dir = "{{folder}}/questions/test"
max_shots = 1
scoring = "label"

[arms.kd]
[arms.soft]
"loss.temperature" = 2.0
"""


def write_recipe(tiny: TinyWorld, folder: Path) -> Path:
    """Write a recipe without senses, whose conversations come from a file of questions."""
    write_rows(folder / "data" / "quartz.jsonl", quartz_rows(120))
    study = folder / "study"
    teacher = folder / "teacher"
    shutil.copytree(tiny.folder / "teacher", teacher)
    (teacher / "chat_template.jinja").write_text(TEMPLATE)
    chats = {"format": "chat", "title_field": "title"}
    changes: dict[str, dict[str, object]] = {
        "teacher": {"model": str(teacher)},
        "data": {
            "train": [chats | {"path": str(study / "questions" / "train.jsonl")}],
            "heldout": [chats | {"path": str(study / "questions" / "heldout.jsonl")}],
            "block_tokens": 256,
        },
        "loss": {"sense_weight": 0.0},
        "train": {"num_steps": 2},
        "topology": {"num_students": 1},
    }
    tree = tiny.spec_tree_with(changes)
    base = folder / "base.toml"
    base.write_text(tomli_w.dumps(tree))
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(base=base, folder=study, data=folder / "data"))
    return recipe


@pytest.mark.timeout(1500)
def test_a_recipe_that_is_killed_in_any_stage_goes_on(
    tiny: TinyWorld, launch: Launch, start: Start, tmp_path: Path
) -> None:
    recipe = write_recipe(tiny, tmp_path)
    study = tmp_path / "study"

    def kill_when(happens: Callable[[], bool]) -> None:
        process: subprocess.Popen[str] = start(*dskd("paper", str(recipe)))
        wait_until(happens, process, patience=600)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    logs, results = study / "logs", study / "results"
    kill_when((logs / "prepare-questions.log").is_file)
    # The tiny spec's seed is 1.
    kill_when(lambda: (logs / "baseline-1.log").is_file() and not any(results.glob("*")))
    kill_when(lambda: (results / "kd-0.json").is_file() and (logs / "soft-0.log").is_file())
    before = {path: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert {path.stem for path in before} == {"baseline-1", "kd-0"}

    assert launch(*dskd("paper", str(recipe)), marker=str(recipe), timeout=900).code == 0
    for path, changed_at in before.items():
        assert path.stat().st_mtime_ns == changed_at, "a finished run was run again"
    table = (study / "table.md").read_text()
    assert "2 of 2 runs are done" in table
    for model in ("teacher", "untrained student", "kd", "soft"):
        assert f"| {model} |" in table
    content = json.loads((study / "table.json").read_text())
    found = {(row["group"], row["task"], row["metric"]) for row in content["comparisons"]}
    assert {("soft", "heldout", "kl"), ("soft", "quartz", "margin")} <= found
    assert "<h2>Held-out questions</h2>" in (study / "compare.html").read_text()
