"""A tiny run through all launchers and commands: its results, its resumption and its export."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dskd_ds.observe.charts import CHARTS
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.senses.dictionary.dictionary import SENSES_FILE, open_dictionary
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, dskd, mpirun, ranks, torchrun, warm_dskd

pytestmark = pytest.mark.process


@pytest.fixture
def run_dir(tiny: TinyWorld, launch: Launch, dictionary: Path) -> Path:
    """A finished run of 6 steps with a checkpoint after step 3, trained once per session.

    It measures the loss on held-out text before each save.
    """
    folder = tiny.folder / "run"
    if not (folder / "student").is_dir():
        assert dictionary.is_dir()
        settings = ("checkpoint.keep_best=true", "monitor.heldout_tokens=256")
        argv = [str(tiny.spec_file), *override_argv(settings)]
        assert launch(*dskd("train", *argv)).code == 0
    return folder


def test_dictionary_is_the_same_for_any_number_of_ranks(
    tiny: TinyWorld, launch: Launch, dictionary: Path
) -> None:
    alone = tiny.folder / "senses_alone"
    argv = [str(tiny.spec_file), "--set", f"senses.dictionary={alone}"]
    assert launch(*warm_dskd("senses", "build", *argv)).code == 0
    assert (alone / SENSES_FILE).read_bytes() == (dictionary / SENSES_FILE).read_bytes()
    assert (alone / "index" / "graph.bin").read_bytes() == (
        dictionary / "index" / "graph.bin"
    ).read_bytes()
    facts = open_dictionary(dictionary).facts
    assert facts["num_related_tokens"] > 0
    assert facts["num_tokens"] > 20


def test_a_run_leaves_all_its_files_and_no_shared_memory(tiny: TinyWorld, run_dir: Path) -> None:
    for name in (
        "spec.toml",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints/step-00000003/manifest.json",
        "student/model.safetensors",
    ):
        assert (run_dir / name).exists(), name
    records = read_metrics(run_dir)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    of_other_runs = {"unchanged_weights", "cache_hit_rate"}
    keys = {"step", "tokens", "step_tokens", "job_id", *CHARTS} - of_other_runs
    at_saves = {"heldout_loss", "heldout_seconds"}
    for record in records:
        assert set(record) == (keys if record["step"] in (3, 6) else keys - at_saves)
        assert all(math.isfinite(value) for value in record.values())
        assert record["sense_positions"] > 0
        assert 0 < record["teacher_mass"] <= 1
        assert record["link_bytes"] > 1000
        assert 0 < record["sense_with_synonyms"] < 1
        assert 0 < record["sense_with_neighbours"] <= 1
    assert records[-1]["tokens"] == 6 * 4 * 32
    assert not list((run_dir / "link").glob("student-*.json"))  # addresses are withdrawn at the end
    buffers = Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_{os.getuid()}_*")
    before = tiny.spec_file.stat().st_mtime
    assert not [buffer for buffer in buffers if buffer.stat().st_mtime > before]


def test_the_student_loads_without_this_package(run_dir: Path) -> None:
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"m = AutoModelForCausalLM.from_pretrained({str(run_dir / 'student')!r})\n"
        f"t = AutoTokenizer.from_pretrained({str(run_dir / 'student')!r})\n"
        "assert m.config.num_hidden_layers == 2 and 'dskd_ds' not in sys.modules\n"
        "print(m(**t(' big bank', return_tensors='pt')).logits.shape)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_eval_report_and_export(tiny: TinyWorld, launch: Launch, run_dir: Path) -> None:
    assert launch(*warm_dskd("eval", str(tiny.spec_file))).code == 0
    scores = json.loads((run_dir / "evaluation.json").read_text())["scores"]
    assert scores["teacher"]["kl"] == 0
    assert scores["before"]["kl"] > 0
    assert scores["after"]["kl"] > 0
    # The same text and weights, but the exported student is rounded to bfloat16.
    measured = read_metrics(run_dir)[-1]["heldout_loss"]
    assert math.log(scores["after"]["perplexity"]) == pytest.approx(measured, rel=0.01)
    assert launch(*warm_dskd("report", str(tiny.spec_file))).code == 0
    page = (run_dir / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 7
    assert "Cross-entropy on held-out text" in page
    assert f"{scores['after']['perplexity']:.1f}" in page
    exported = load_file(run_dir / "student" / "model.safetensors")
    assert launch(*warm_dskd("export", str(tiny.spec_file))).code == 0
    again = load_file(run_dir / "student" / "model.safetensors")
    assert exported.keys() == again.keys()
    # Training gathers the weights from the ranks; the command reads the checkpoint's files.
    assert all((exported[name] == again[name]).all() for name in exported)


def test_resume_is_bitwise(tiny: TinyWorld, launch: Launch, run_dir: Path) -> None:
    """A run that is resumed after step 3 gets exactly the same losses and weights."""
    second = tiny.folder / "resumed"
    shutil.copytree(run_dir, second)
    shutil.rmtree(second / "checkpoints" / "step-00000006")
    shutil.rmtree(second / "student")
    # As after a crash while this checkpoint was saved: it has no manifest.
    (second / "checkpoints" / "step-00000005").mkdir()
    argv = ["--spec", str(tiny.spec_file), "--set", f"run_dir={second}"]
    assert launch(*ranks(3, "dskd_ds/train.py", *argv)).code == 0
    exact = (
        "loss",
        "loss_ce",
        "loss_kd",
        "loss_sense",
        "grad_norm",
        "lr",
        "sense_positions",
        "sense_pull_distance",
    )
    for before, after in zip(read_metrics(run_dir), read_metrics(second), strict=True):
        assert {key: before[key] for key in exact} == {key: after[key] for key in exact}
    mine, theirs = (
        load_file(folder / "student" / "model.safetensors") for folder in (run_dir, second)
    )
    assert all((mine[name] == theirs[name]).all() for name in mine)


def test_exact_signal_trains(tiny: TinyWorld, launch: Launch, dictionary: Path) -> None:
    assert dictionary.is_dir()
    folder = tiny.folder / "exact"
    keys = (
        f"run_dir={folder}",
        f"senses.local_dir={folder / 'node'}",
        "loss.signal=exact",
        "loss.temperature=2.0",
        "train.num_steps=2",
        "student.layers=first",
        "train.global_batch_blocks=8",
    )
    argv = ["--spec", str(tiny.spec_file), *override_argv(keys)]
    assert launch(*ranks(3, "dskd_ds/train.py", *argv)).code == 0
    assert len(read_metrics(folder)) == 2
    # The two students share one copy.
    (copy,) = (path for path in (folder / "node").glob("*/senses-*") if path.is_dir())
    assert (copy / SENSES_FILE).read_bytes() == (dictionary / SENSES_FILE).read_bytes()
    assert load_spec(folder / "spec.toml").num_accumulation_steps == 4


@pytest.mark.parametrize("launcher", [mpirun, torchrun])
def test_other_launchers_train_to_the_same_losses(
    tiny: TinyWorld, launch: Launch, run_dir: Path, launcher: Callable[..., list[str]]
) -> None:
    """Entry and roles are those under deepspeed, and the losses are equal bit for bit."""
    folder = tiny.folder / launcher.__name__
    argv = ["dskd_ds/train.py", "--spec", str(tiny.spec_file), "--set", f"run_dir={folder}"]
    assert launch(*launcher(3, *argv)).code == 0
    for mine, theirs in zip(read_metrics(folder), read_metrics(run_dir), strict=True):
        assert (mine["loss"], mine["grad_norm"]) == (theirs["loss"], theirs["grad_norm"])
