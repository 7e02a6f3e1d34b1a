"""`dskd compare` on run directories as `dskd eval` leaves them: verdicts, page, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dskd_ds.commands import cli
from dskd_ds.commands.watch_checkpoints import HELD_FOLDER, hold
from dskd_ds.evaluation.groups import Group
from dskd_ds.evaluation.groups import compare as compare_groups
from dskd_ds.evaluation.items import ItemScores, items_path, read_items, write_items
from dskd_ds.spec import SPEC_FILE, load_spec, write_spec
from tests.unit.commands.test_watch import checkpoint

NUM_DOCUMENTS, DOCUMENT_TOKENS = 80, 20
NUM_ITEMS = NUM_DOCUMENTS * DOCUMENT_TOKENS
TEXT = np.random.default_rng(0).exponential(1.0, NUM_ITEMS)


def make_run(
    folder: Path, *, seed: int, shift: float, digest: str = "text", loss_kl: float = 0.7
) -> Path:
    """A run directory whose student is worse by `shift` nats than the easiest one."""
    random = np.random.default_rng(seed)
    of_seed = 0.01 * random.standard_normal()
    noise = 0.1 * random.standard_normal(NUM_ITEMS)
    kl = TEXT + shift + of_seed + noise
    folder.mkdir(parents=True)
    overrides = [f"seed={seed}", f'run_dir="{folder}"', f"loss.kd_weight={loss_kl}"]
    write_spec(load_spec("tests/base_run.toml", overrides), folder / SPEC_FILE)
    records = [{"step": step, "loss": 5.0 - step * 0.1, "loss_kd": 2.0} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    scores = ItemScores(
        task="heldout",
        model="after",
        digest=digest,
        clusters=np.repeat(np.arange(NUM_DOCUMENTS), DOCUMENT_TOKENS),
        values={"cross_entropy": kl + 1, "kl": kl},
    )
    write_items(scores, items_path(folder, "heldout", "after"))
    return folder


def compare(tmp_path: Path, *groups: str) -> list[dict[str, object]]:
    output = tmp_path / "result"
    assert cli.main(["compare", *groups, "--output", str(output)]) == 0
    content: list[dict[str, object]] = json.loads((output / "compare.json").read_text())
    return content


def test_groups_of_seeds_give_a_verdict_about_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    better = [make_run(tmp_path / f"b{i}", seed=i, shift=0.0, loss_kl=1.0) for i in range(3)]
    worse = [make_run(tmp_path / f"w{i}", seed=i, shift=0.2) for i in range(3)]
    results = compare(
        tmp_path, f"kd={','.join(map(str, worse))}", f"dskd={','.join(map(str, better))}"
    )
    assert [result["metric"] for result in results] == ["cross_entropy", "kl"]
    for result in results:
        assert result["verdict"] == "better"
        assert result["about"] == "this holds for the settings"
        assert result["difference"] == pytest.approx(-0.2, abs=0.03)
    printed = capsys.readouterr().out
    assert "heldout: dskd against kd" in printed
    page = (tmp_path / "result" / "compare.html").read_text()
    assert "loss.kd_weight" in page
    assert page.count("data:image/png;base64,") == 3
    assert (tmp_path / "result" / "compare.png").stat().st_size > 5000


def test_runs_are_paired_by_seed_and_their_folders_may_contain_an_equals_sign(
    tmp_path: Path,
) -> None:
    runs = [str(make_run(tmp_path / f"pull=1-{seed}", seed=seed, shift=0.0)) for seed in (0, 1)]
    assert Group.of(",".join(runs)) == Group.of(",".join(reversed(runs)))
    assert Group.of(f"mine={runs[0]}").name == "mine"
    assert Group.of(runs[0]).name == "pull=1-0"


def test_one_seed_each_is_a_verdict_about_two_models_only(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", seed=0, shift=0.0)
    second = make_run(tmp_path / "second", seed=1, shift=0.2)
    other = make_run(tmp_path / "other", seed=1, shift=0.2, loss_kl=1.0)
    same_setting, other_setting = (
        compare(tmp_path, str(first), str(run))[1] for run in (second, other)
    )
    assert same_setting["verdict"] == other_setting["verdict"] == "worse"
    assert "their settings are equal" in str(same_setting["about"])
    assert "needs 2 or more seeds" in str(other_setting["about"])


def test_seeds_of_one_arm_are_hardly_ever_called_different(tmp_path: Path) -> None:
    """Groups of 3 seeds of the same settings: at least 19 of 20 repetitions show no difference."""
    verdicts: list[str] = []
    for repetition in range(20):
        folder = tmp_path / str(repetition)
        runs = [make_run(folder / str(i), seed=100 * repetition + i, shift=0.0) for i in range(6)]
        halves = (runs[:3], runs[3:])
        first, second = (Group.of(",".join(map(str, half))) for half in halves)
        verdicts.append(compare_groups(first, second)[1].verdict)
    assert verdicts.count("no difference shown") >= 19


def test_only_tasks_that_all_runs_of_both_groups_have_are_compared(tmp_path: Path) -> None:
    """A checkpoint that is being scored leaves a folder; other models may have more tasks."""
    runs = [make_run(tmp_path / f"run{seed}", seed=seed, shift=0.0) for seed in (0, 1)]
    others = [
        make_run(tmp_path / f"other{seed}", seed=seed, shift=0.0, loss_kl=1.0) for seed in (0, 1)
    ]
    for run in (*runs, *others):
        hold(
            checkpoint(run / "checkpoints" / "step-1"), run / "evaluation" / HELD_FOLDER / "step-1"
        )
        scores = read_items(items_path(run, "heldout", "after"))
        write_items(scores, items_path(run, "quartz", "teacher"))
    scores = read_items(items_path(runs[0], "heldout", "after"))
    for run in (runs[0], *others):  # the second run of the first group has no scores of this task
        write_items(scores, items_path(run, "logiqa", "after"))
    groups = [",".join(map(str, group)) for group in (runs, others)]
    results = compare(tmp_path, *groups)
    assert [result["task"] for result in results] == ["heldout", "heldout"]


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert cli.main(["compare", *argv]) == 2
    return capsys.readouterr().err


def test_bad_input_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(make_run(tmp_path / "run", seed=0, shift=0.0))
    other = str(make_run(tmp_path / "other", seed=0, shift=0.0, loss_kl=1.0))
    text = str(make_run(tmp_path / "text", seed=0, shift=0.0, digest="other text"))
    empty = str(tmp_path / "nothing")
    assert "one group" in refusal(capsys, run)
    assert f"{empty}: there are no scores" in refusal(capsys, run, empty)
    assert "differ in loss.kd_weight" in refusal(capsys, run, f"both={run},{other}")
    assert "on other items" in refusal(capsys, run, text)
    assert "two groups are named" in refusal(capsys, run, run)
    assert "two of these runs have the seed 0" in refusal(capsys, other, f"{run},{run}")
    assert "there are no scores of model mine" in refusal(capsys, run, f"{run}:mine")
    file = f"{run}/{SPEC_FILE}"
    assert f"{file} is not a folder" in refusal(capsys, run, other, "--output", file)
    items_path(run, "heldout", "after").write_bytes(b"not parquet")
    assert "is not a file of scores" in refusal(capsys, f"a={run}", f"b={other}")
