"""A teacher of two ranks: it answers as one rank does, and one rank's death ends both."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.link import open_student_side
from dskd_ds.models.named import NamedModel
from dskd_ds.observe.metrics import read_metrics
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.launch import free_port
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld, write_model
from tests.processes import divided_worker
from tests.processes.conftest import (
    PATIENCE_SECONDS,
    Launch,
    Start,
    environment_of,
    ranks,
    torchrun,
)

pytestmark = [pytest.mark.process, pytest.mark.slow]
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def write_models(folder: Path) -> None:
    """Write a tiny model of each architecture, with every weight random: norms and biases too."""
    from transformers import (
        AutoModelForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        Qwen2Config,
    )

    configs = {
        "llama": LlamaConfig(**SHAPE, tie_word_embeddings=False),
        "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
        "gemma3": Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=16),
    }
    for name, config in configs.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder / name)


@pytest.fixture(scope="module")
def found(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found for each architecture."""
    folder = tmp_path_factory.mktemp("divided")
    write_models(folder)
    port = str(free_port())
    command = [sys.executable, "-m", "tests.processes.divided_worker", str(folder), port]
    ranks = [
        subprocess.Popen([*command, str(rank), "2"], env=environment_of(tiny)) for rank in range(2)
    ]
    assert [rank.wait(400) for rank in ranks] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_two_ranks_answer_as_one_does(found: list[dict[str, Any]], name: str) -> None:
    for rank, of_rank in enumerate(found):
        facts = of_rank[name]
        print(name, rank, facts)
        assert facts["hidden"] < 1e-5
        # 8 rows of padding, which the student lacks, are the last rank's.
        assert facts["logit_columns"] == (256, 248)[rank]
        for by_block in (False, True):
            assert facts[f"top_k_ids {by_block}"] == 0
            assert facts[f"top_k_logits {by_block}"] <= 2**-7
            assert facts[f"tail {by_block}"] < 1e-4
            for part in ("draw_lengths", "draw_ids", "draw_counts"):
                assert facts[f"{part} {by_block}"] == 0
            assert facts[f"draw_log_probs {by_block}"] < 1e-4


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_a_rank_holds_and_reads_its_share_only(found: list[dict[str, Any]], name: str) -> None:
    for of_rank in found:
        assert of_rank[name]["parameter_share"] <= 0.6
        assert 0.4 < of_rank[name]["read_share"] <= 0.6


NUM_STEPS = 8
LOSSES = ("loss", "loss_ce", "loss_kd", "grad_norm")


@pytest.fixture(scope="module")
def even(tiny: TinyWorld) -> Path:
    """A teacher whose vocabulary two ranks can divide: that of the tiny world has 383 rows."""
    return write_model(
        tiny.folder / "even_teacher", tiny.folder, num_layers=3, seed=0, extra_rows=1
    )


def arguments_of(tiny: TinyWorld, run_dir: Path, *overrides: str) -> list[str]:
    """Return the spec and overrides of a short run without senses, as arguments.

    The fixture `even` must have written its teacher.
    """
    shared = (
        f"run_dir={run_dir}",
        f"teacher.model={tiny.folder / 'even_teacher'}",
        "topology.num_students=1",
        "student.layers=first",
        "loss.sense_weight=0",
        f"train.num_steps={NUM_STEPS}",
        "checkpoint.every_steps=0",
        "link.heartbeat_seconds=0.5",
        "link.dead_after_seconds=3.0",
    )
    return ["--spec", str(tiny.spec_file), *override_argv([*shared, *overrides])]


def losses_of(run_dir: Path) -> list[list[float]]:
    """Return the losses of each step."""
    return [[record[key] for key in LOSSES] for record in read_metrics(run_dir)]


@pytest.fixture(scope="module")
def two_rank_run(tiny: TinyWorld, even: Path) -> Path:
    """A run with one student and one teacher of two ranks in one launch."""
    assert even.is_dir()
    run_dir = tiny.folder / "divided_teacher"
    argv = arguments_of(tiny, run_dir, "topology.num_teachers=1", "topology.ranks_per_teacher=2")
    command = torchrun(3, "dskd_ds/train.py", *argv)
    done = subprocess.run(command, env=environment_of(tiny), timeout=480)
    assert done.returncode == 0
    return run_dir


def test_a_run_learns_the_same_from_a_teacher_of_two_ranks(
    tiny: TinyWorld, launch: Launch, two_rank_run: Path
) -> None:
    run_dir = tiny.folder / "whole_teacher"
    argv = arguments_of(tiny, run_dir, "topology.num_teachers=1")
    assert launch(*torchrun(2, "dskd_ds/train.py", *argv)).code == 0
    assert len(losses_of(two_rank_run)) == NUM_STEPS
    np.testing.assert_allclose(losses_of(two_rank_run), losses_of(run_dir), rtol=1e-5)


def test_mpirun_starts_a_teacher_of_two_ranks_too(
    tiny: TinyWorld, launch: Launch, two_rank_run: Path
) -> None:
    """Bit for bit as torchrun: its ranks meet in another way, and compute the same."""
    run_dir = tiny.folder / "divided_by_mpirun"
    argv = arguments_of(tiny, run_dir, "topology.num_teachers=1", "topology.ranks_per_teacher=2")
    assert launch(*ranks(3, "dskd_ds/train.py", *argv)).code == 0
    assert losses_of(run_dir) == losses_of(two_rank_run)


def rank_of_teacher(
    tiny: TinyWorld, argv: list[str], rank: int, port: int
) -> subprocess.Popen[str]:
    """Start one rank of a teacher of two, without a launcher that would end the other one."""
    place = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "dskd_ds.teacher", *argv],
        env=environment_of(tiny) | place,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.fault
@pytest.mark.parametrize("killed", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_its_teacher_and_another_answers(
    tiny: TinyWorld, even: Path, start: Start, killed: signal.Signals
) -> None:
    """The other teacher is a launch of torchrun or mpirun; its reply has the same bits."""
    run_dir = tiny.folder / f"lost_rank_{killed.name}"
    run_dir.mkdir()
    overrides = ("topology.num_teachers=0", "topology.ranks_per_teacher=2")
    argv = arguments_of(tiny, run_dir, *overrides)
    spec = load_spec(str(tiny.spec_file), argv[3::2])
    teacher = NamedModel(str(even))
    arrays = divided_worker.request(teacher.vocab_size)
    port = free_port()
    link = open_student_side(
        run_dir,
        rank=0,
        spec=spec.link.model_copy(update={"teacher_wait_seconds": PATIENCE_SECONDS}),
        vocab_size=teacher.vocab_size,
        hidden_size=teacher.hidden_size,
        num_students=1,
        spans_nodes=False,
    )
    first, second = (rank_of_teacher(tiny, argv, rank, port) for rank in range(2))
    try:
        expected = link.submit(arrays, divided_worker.WANTED, 1 << 20).result(PATIENCE_SECONDS)
        second.send_signal(killed)
        _, errors = first.communicate(timeout=PATIENCE_SECONDS)
        assert first.returncode == 1
        assert "teacher 0, rank 0 of 2: rank 1 of this teacher has ended" in errors
        launcher = torchrun if killed == signal.SIGKILL else ranks
        other = start(*launcher(2, "-m", "dskd_ds.teacher", *argv, "--replica", "1"))
        found = link.submit(arrays, divided_worker.WANTED, 1 << 20).result(PATIENCE_SECONDS)
        assert found.teacher != expected.teacher
        for name, array in expected.arrays.items():
            np.testing.assert_array_equal(found.arrays[name], array)
        link.expect_no_restart()
        link.close()
        assert other.wait(60) == 0
    finally:
        link.close()
        for process in (first, second):
            process.kill()
            process.communicate()
