"""What the rest relies on: names, schedule, manifests, metrics, the command line, the README."""

from __future__ import annotations

import itertools
import json
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from dskd_ds import train
from dskd_ds.commands import cli
from dskd_ds.errors import InputError
from dskd_ds.files.manifest import read_manifest, write_manifest
from dskd_ds.observe.metrics import CHARTS, TOGETHER, MetricsWriter, read_metrics
from dskd_ds.spec import load_spec
from dskd_ds.student.ds_config import OWNED_BY_SPEC, deepspeed_config, read_deepspeed_json
from dskd_ds.student.loop import lr_at

QUICKSTART = "ds_configs/runs/quickstart.toml"


def test_nothing_in_the_package_hides_a_module_that_others_import() -> None:
    """`deepspeed dskd_ds/train.py` puts dskd_ds/ first on sys.path."""
    mine = {path.stem for path in Path("dskd_ds").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()} - {"__init__"}
    others = set(sys.stdlib_module_names) | set(packages_distributions()) - {"dskd_ds"}
    assert not mine & others


def test_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    spec = load_spec(QUICKSTART, ["optimizer.lr=1.0", "optimizer.warmup_fraction=0.1", "optimizer.min_lr_fraction=0.2"])
    rates = [lr_at(spec, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.6)
    assert 0.2 < rates[99] < 0.21
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_deepspeed_settings_are_completed_and_conflicts_refused(tmp_path: Path) -> None:
    spec = load_spec(QUICKSTART, ["train.global_batch_blocks=8", "train.micro_batch_blocks=2", 'student.dtype="float32"'])
    config = deepspeed_config(spec)
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (8, 2, 2)
    assert config["bf16"] == {"enabled": False}
    path = tmp_path / "ds.json"
    for key, owner in OWNED_BY_SPEC.items():
        path.write_text(json.dumps({"zero_optimization": {"stage": 3}, key: 1}))
        with pytest.raises(InputError, match=re.escape(f"{key} = 1, but the run spec sets this in {owner}")):
            read_deepspeed_json(str(path))
    path.write_text("{}")
    with pytest.raises(InputError, match="stage"):
        read_deepspeed_json(str(path))


def test_manifest_notices_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    write_manifest(tmp_path, {"step": 3})
    assert read_manifest(tmp_path) == {"step": 3}
    (tmp_path / "a").write_text("hallo")
    assert read_manifest(tmp_path, verify=False) == {"step": 3}  # sizes agree
    with pytest.raises(InputError, match="not what was written"):
        read_manifest(tmp_path)


def record(step: int) -> dict[str, float]:
    return {"step": step, "tokens": step * 10, **dict.fromkeys(CHARTS, float(step)), "skipped": 0.0}


def test_every_metric_has_a_chart_and_every_layout_curve_exists(tmp_path: Path) -> None:
    spec = load_spec(QUICKSTART, [f'run_dir="{tmp_path}"'])
    writer = MetricsWriter(spec, 0, 2)
    for step in (1, 2):
        writer.write(record(step))
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == set(CHARTS.values())
    assert [event.value for event in board.Scalars(CHARTS["loss"])] == [1.0, 2.0]
    assert "run spec/text_summary" in board.Tags()["tensors"]
    layout = layout_pb2.Layout.FromString(board.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    patterns = [pattern for category in layout.category for chart in category.chart for pattern in chart.multiline.tag]
    found = [tag for pattern in patterns for tag in board.Tags()["scalars"] if re.match(pattern, tag)]  # as TensorBoard does it
    assert found == [CHARTS[key] for charts in TOGETHER.values() for keys in charts.values() for key in keys]


def test_metrics_go_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    spec = load_spec(QUICKSTART, [f'run_dir="{tmp_path}"', "monitor.tensorboard=false"])
    writer = MetricsWriter(spec, 0, 3)
    for step in (1, 2, 3):
        writer.write(record(step))
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut by a crash
    writer = MetricsWriter(spec, 2, 3)
    writer.write(record(3))
    writer.close()
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_run_that_starts_anew_leaves_nothing_of_the_one_that_crashed(tmp_path: Path) -> None:
    for last in (3, 1):
        writer = MetricsWriter(load_spec(QUICKSTART, [f'run_dir="{tmp_path}"']), 0, 10)
        for step in range(1, last + 1):
            writer.write(record(step) | {"loss": float(last)})
        writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars(CHARTS["loss"])] == [(1, 1.0)]
    assert [r["loss"] for r in read_metrics(tmp_path)] == [1.0]


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_the_last_step_is_always_written(tmp_path: Path, every: int, steps: list[int]) -> None:
    keys = [f'run_dir="{tmp_path}"', "monitor.tensorboard=false", f"monitor.log_every_steps={every}"]
    writer = MetricsWriter(load_spec(QUICKSTART, keys), 0, 5)
    for step in range(1, 6):
        writer.write(record(step))
    writer.close()
    assert [r["step"] for r in read_metrics(tmp_path)] == steps


def test_an_idle_push_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(active: float, antonyms: float) -> int:
        writer = MetricsWriter(load_spec(QUICKSTART, [f'run_dir="{tmp_path}"', "monitor.tensorboard=false"]), 0, 39)
        for step in range(1, 40):
            writer.write(record(step) | {"sense_push_active": active, "sense_with_antonyms": antonyms, "sense_with_neighbours": 0.0})
        writer.close()
        return capsys.readouterr().err.count("the push hardly ever acts")

    assert said(active=0.01, antonyms=0.1) == 1
    assert said(active=0.5, antonyms=0.1) == 0
    assert said(active=0.0, antonyms=0.0) == 0  # nothing to push from is another matter


def test_wrong_spec_ends_with_2_and_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "nowhere.toml"]) == 2
    assert capsys.readouterr().err.startswith("nowhere.toml: there is no such file.")


def test_what_only_another_rank_finds_wrong_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is missing on one node: rank 0 has nothing to say."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    waited: list[float] = []
    monkeypatch.setattr(train.time, "sleep", waited.append)
    assert train.main(["--spec", "nowhere.toml"]) == 2
    assert waited == [train.FIRST_RANK_SPEAKS_SECONDS]  # the word is rank 0's
    assert capsys.readouterr().err.startswith("nowhere.toml: there is no such file.")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for word in ("quickstart", "senses build", "dskd report", "exit codes"):
        assert word in text


def test_the_readmes_commands_exist() -> None:
    """Every `dskd` line of the README parses; every file it names is there. (CI runs its two make commands.)"""
    readme = Path("README.md").read_text()
    commands = [line.strip().removeprefix(".venv/bin/") for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
                for line in block.splitlines()]
    dskd = [line.split("#")[0].split()[1:] for line in commands if line.startswith("dskd ")]
    assert len(dskd) >= 4
    for words in dskd:
        assert cli.parser().parse_args(words).command
    for path in re.findall(r"`((?:ds_configs|dskd_ds|tests|slurm|tools)/[\w./]+)`", readme):
        assert Path(path).exists(), path
