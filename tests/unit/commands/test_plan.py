"""`dskd plan`, and the refusal of what cannot fit, as a user calls them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dskd_ds.commands import cli
from dskd_ds.commands.plan import TEXT
from dskd_ds.costs import calibration, capacity
from tests.unit.bench.test_calibrate import HERE, MEASURED

LLAMA_3_8B = """
{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
"tie_word_embeddings": false}"""
CONFIG = json.loads(LLAMA_3_8B)
SPEC = """\
name = "big"
run_dir = "run"
deepspeed = "ds_configs/zero3.json"
teacher = {model = "llama"}
student = {layers = "first", num_layers = 16}
topology = {num_students = 4, num_teachers = 1}
train = {num_steps = 100, global_batch_blocks = 64, micro_batch_blocks = 2}
data = {train = [{path = "text.txt"}]}
senses = {dictionary = "senses", candidates = "neighbours"}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of Llama-3-8B, of which only the configuration is there; its machine has 8 GB."""
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "big.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSKD_HOME", str(tmp_path / "home"))
    small = capacity.Capacity(gpu_bytes=0, num_gpus=0, host_bytes=8 << 30, source="a test")
    monkeypatch.setattr("dskd_ds.costs.plan.this_machine", lambda: small)
    return "big.toml"


def test_a_run_that_fits_is_planned_with_times(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", spec, "--cluster", "h100-80"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "activations",
        "bytes per token",
        "tokens/s",
        "teachers so that",
        "all 100 steps",
    ):
        assert words in printed


def test_the_bytes_on_the_link_add_up(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With states and senses below the head, and senses at the head."""
    terms = [
        '{kind="cosine",student_layer=8,weight=1.0}',
        '{kind="posterior",student_layer=12,weight=1.0,dictionary="senses-12"}',
    ]
    overrides = ["--set", f"loss.terms=[{','.join(terms)}]", "--set", "senses.retrieve_on=teacher"]
    cli.main(["plan", spec, "--cluster", "h100-80", *overrides])
    rows = re.findall(r"^ *(.*?) +([\d,]+) bytes per token$", capsys.readouterr().out, re.MULTILINE)
    sizes = {name: int(size.replace(",", "")) for name, size in rows}
    together = sizes.pop("together")
    assert sizes["states below the head"] == 8192
    assert sizes["senses below the head"] == 106  # at most 10 senses of the token, and 5 others
    assert sizes["numbers of senses"] > 0
    assert sum(sizes.values()) == pytest.approx(together, abs=3)


def test_a_planned_run_is_simulated(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", spec, "--cluster", "h100-80", "--simulate"]
    assert cli.main([*argv, "--set", "checkpoint.every_steps=20"]) == 0
    printed = capsys.readouterr().out
    assert "all 100 steps" in printed
    assert "waiting for teachers; teachers compute" in printed

    cli.main([*argv, "--set", "checkpoint.every_steps=20", "--json"])
    plan = json.loads(capsys.readouterr().out)
    simulated = plan["simulated"]
    assert simulated["step_seconds"] == pytest.approx(plan["speed"]["step"]["total"], rel=0.1)
    assert simulated["launches"]["saved"] > 0


def test_a_simulation_needs_a_cluster_and_a_length(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", spec, "--simulate"]) == 2
    assert "--simulate: the cluster is unknown" in capsys.readouterr().err


def test_json_holds_the_same_plan(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["plan", spec, "--cluster", "h100-80", "--json", "--tokens", "65536000"])
    plan = json.loads(capsys.readouterr().out)
    student = plan["needs"][0]
    assert student["needed"] == pytest.approx(sum(student["memory"]["parts"].values()))
    assert plan["speed"]["num_steps"] == 1000  # 64 blocks of 1,024 tokens per step
    step = plan["speed"]["step"]
    assert plan["speed"]["hours"] == pytest.approx(1000 * step["total"] / 3600)


def test_what_does_not_fit_is_refused_with_ways_out(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", spec, "--set", "data.block_tokens=8192", "--cluster", "a100-40"]) == 2
    printed = capsys.readouterr().out
    assert "DOES NOT FIT" in printed
    assert "activation_checkpointing = true" in printed


def test_training_it_here_is_refused_before_anything_is_read(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", spec]) == 2
    message = capsys.readouterr().err
    assert "does not fit into memory" in message
    assert "GB too little" in message
    assert "--force" in message
    assert not Path("run").exists()


def test_force_goes_on_to_the_other_checks(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The next thing that is wrong is the text, which does not exist."""
    assert cli.main(["train", spec, "--force", "--dry-run"]) == 2
    message = capsys.readouterr().err
    assert "--force: started although" in message
    assert "text.txt" in message


def test_a_type_without_a_formula_has_no_plan_but_trains_with_a_warning(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 GB would be too little for a model with a formula; here the missing text is found first."""
    Path("llama/config.json").write_text(json.dumps(CONFIG | {"model_type": "nanochat"}))
    assert cli.main(["plan", spec]) == 2
    assert 'llama: its type (model_type = "nanochat") has no formula' in capsys.readouterr().err
    on_a_cluster = ["submit", spec, "--cluster", "h100-80", "--gpus-per-node", "8"]
    for argv in (["train", spec], on_a_cluster):
        assert cli.main([*argv, "--dry-run"]) == 2
        message = capsys.readouterr().err
        assert "warning: the memory of this run is not checked. llama: its type" in message
        assert "text.txt" in message


def test_the_best_split_keeps_the_batch(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", spec, "--cluster", "h100-80", "--search", "16", "--json"]
    assert cli.main(argv) == 0
    splits = json.loads(capsys.readouterr().out)
    assert splits
    for split in splits:
        # On two nodes, one of them for teachers.
        assert split["num_students"] <= split["num_teachers"] == 8
        assert 64 % (split["num_students"] * split["micro_batch_blocks"]) == 0
    speeds = [split["tokens_per_second"] for split in splits]
    assert speeds == sorted(speeds, reverse=True)


def test_a_split_has_whole_teachers(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", spec, "--cluster", "h100-80", "--search", "16", "--json"]
    assert cli.main([*argv, "--set", "topology.ranks_per_teacher=4"]) == 0
    splits = json.loads(capsys.readouterr().out)
    assert {split["num_students"] for split in splits} <= {1, 2, 4, 8}
    assert {split["num_teachers"] for split in splits} == {2}


def test_a_path_that_does_not_exist_is_no_hub_name(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", spec, "--set", 'teacher.model="./nowhere"']) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_run_that_reads_a_cache_is_planned_without_teachers(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["plan", spec, "--cluster", "h100-80", "--set", "senses.retrieve_on=student"]
    cached = ["--set", "teacher.source=cache", "--set", "topology.num_teachers=0"]
    cli.main([*argv, "--json"])
    live = json.loads(capsys.readouterr().out)
    assert cli.main([*argv, *cached, "--json", "--picture", "plan.png"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["speed"]["num_ranks"] == live["speed"]["num_ranks"] - 1 == 4
    assert plan["speed"]["teacher"] is None
    assert plan["speed"]["num_teachers"] == plan["speed"]["step"]["teacher_wait"] == 0
    assert not any("teacher" in need["what"] for need in plan["needs"])

    cli.main([*argv, *cached])
    printed = capsys.readouterr().out
    assert "reading the cache takes no time" in printed
    assert "as many teachers as are needed" not in printed
    assert "teachers so that nobody waits" not in printed

    for option in (["--search", "16"], ["--simulate"]):
        assert cli.main([*argv, *cached, *option]) == 2
        assert f'{option[0]}: [teacher] source = "cache"' in capsys.readouterr().err


def test_a_small_batch_is_named_as_the_reason_for_few_students(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["plan", spec, "--cluster", "h100-80", "--search", "64"]
    batch = ["train.global_batch_blocks=4", "topology.num_students=2"]
    overrides = [part for setting in batch for part in ("--set", setting)]
    assert cli.main([*argv, *overrides]) == 0
    assert "at most 4 students: [train] global_batch_blocks = 4" in capsys.readouterr().out
    assert cli.main(argv) == 0
    assert "at most" not in capsys.readouterr().out


def test_a_search_needs_a_cluster(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", spec, "--search", "16"]) == 2
    assert "--cluster" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--picture", "plan.png"], ["--simulate"], ["--exact"], ["--tokens", "2e9"]]
)
def test_a_search_takes_no_option_of_a_single_plan(
    spec: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", spec, "--cluster", "h100-80", "--search", "16", *option]) == 2
    captured = capsys.readouterr()
    assert f"leave out {option[0]}" in captured.err
    assert captured.out == ""


def test_the_commands_in_the_help_draw_and_search(spec: str) -> None:
    """Every example is run as it stands, but with the fixture's spec."""
    examples = re.findall(r"^ +dskd (plan my.toml .*)$", TEXT, re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        assert cli.main(example.replace("my.toml", spec).split()) == 0
    assert Path("plan.png").exists()


def test_json_holds_the_exact_memory_too(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"hidden_size": 64, "intermediate_size": 160, "vocab_size": 300}
    Path("llama/config.json").write_text(json.dumps(CONFIG | small))
    short = ["--set", "student.num_layers=1", "--set", "data.block_tokens=64"]
    cli.main(["plan", spec, "--cluster", "h100-80", "--json", "--exact", *short])
    exact = json.loads(capsys.readouterr().out)["exact"]
    assert exact["peak"] >= exact["kept"] >= exact["kept_by_formula"] > 0


def test_the_picture_is_a_png(spec: str) -> None:
    cli.main(["plan", spec, "--cluster", "h100-80", "--picture", "plan.png"])
    assert Path("plan.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_refused(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["plan", spec, "--cluster", "h100-80", "--picture", "nowhere/plan.png"]
    assert cli.main(argv) == 2
    assert "--picture nowhere/plan.png: it cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["plan"], ["train"]])
def test_a_refusal_loads_no_torch(spec: str, argv: list[str], tmp_path: Path) -> None:
    """A machine of 8 GB refuses the run with exit code 2, without importing torch."""
    code = (
        "import sys\n"
        "from dskd_ds.costs import capacity, plan\n"
        "plan.this_machine = lambda: capacity.Capacity(0, 0, 8 << 30, 'a test')\n"
        "from dskd_ds.commands import cli\n"
        f"code = cli.main({[*argv, spec]!r})\n"
        "sys.exit(99 if 'torch' in sys.modules else code)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert result.returncode == 2


def test_this_machine_has_times_once_it_is_calibrated(
    spec: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dskd_ds.costs.calibration.gpu_memory_bytes", list)
    cli.main(["plan", spec])
    assert "dskd bench calibrate" in capsys.readouterr().out
    calibration.write_calibration(MEASURED)  # of another machine
    cli.main(["plan", spec])
    printed = capsys.readouterr().out
    assert "tokens/s" not in printed
    assert "no times: `dskd bench calibrate` measured 2 cores of a CPU, and this" in printed
    calibration.write_calibration(HERE)
    cli.main(["plan", spec])
    printed = capsys.readouterr().out
    assert "tokens/s" in printed
    assert "measured here" in printed
