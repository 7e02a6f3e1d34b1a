"""Tasks that lm-evaluation-harness asks in this process."""

from __future__ import annotations

from pathlib import Path

from dskd_ds.commands import cli
from dskd_ds.evaluation.items import items_path, read_items
from tests.conftest import TinyWorld
from tests.unit.evaluation.tasks.test_questions import quartz_rows, write_rows


def test_a_run_is_asked_in_the_turns_that_it_is_trained_on(tiny: TinyWorld, tmp_path: Path) -> None:
    """The tiny teacher is a base model; only [data] chat_template makes its prompts."""
    write_rows(tmp_path / "quartz.jsonl", quartz_rows(20))
    run_dir = tmp_path / "run"
    argv = ["eval", str(tiny.spec_file), "--model", "teacher", "--limit", "3"]
    for setting in (f"run_dir={run_dir}", "data.chat_template=plain", "teacher.dtype=bfloat16"):
        argv += ["--set", setting]
    assert cli.main([*argv, "--tasks", "quartz", "--data-dir", str(tmp_path)]) == 0
    assert "\nUser: " in (run_dir / "harness" / "quartz.jsonl").read_text().replace("\\n", "\n")
    scores = read_items(items_path(run_dir, "quartz", "teacher"))
    assert len(scores.clusters) == 3
    # Log-probabilities in bfloat16 would be multiples of 1/64 here, and so would their differences.
    assert (scores.values["margin"] * 64 % 1 > 0).any()
