"""`dskd data continue` under mpirun: the same file from any number of ranks, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tomli_w

from dskd_ds.runtime import launch as launchers
from dskd_ds.runtime.console import child_environment
from dskd_ds.spec import load_spec
from tests.conftest import WORDS, TinyWorld
from tests.of_spec import train_blocks_of
from tests.processes.conftest import Launch, children_with, dskd

pytestmark = pytest.mark.process
SAMPLED = ("--new-tokens", "80", "--temperature", "1.0", "--batch", "2")


@pytest.fixture
def chat_spec(tiny: TinyWorld) -> Path:
    """The tiny spec with 61 conversations, one of which asks nothing."""
    rows = [
        {
            "title": str(i),
            "messages": [
                {"role": "user", "content": f"what is {' '.join(WORDS[i % 20 :][: 1 + i % 7])}?"},
                {"role": "assistant", "content": "a word"},
            ],
        }
        for i in range(60)
    ]
    source = tiny.folder / "chats.jsonl"
    source.write_text(
        "".join(
            json.dumps(row) + "\n"
            for row in [*rows, {"title": "none", "messages": rows[0]["messages"][1:]}]
        )
    )
    tree = tiny.spec_tree()
    tree["data"] = {
        "block_tokens": 128,
        "chat_template": "plain",
        "heldout_fraction": 0.0,
        "train": [{"path": str(source), "format": "chat", "title_field": "title"}],
    }
    path = tiny.folder / "chat.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


@pytest.fixture
def reference(tiny: TinyWorld, launch: Launch, chat_spec: Path) -> Path:
    """What one rank writes (once a session)."""
    output = tiny.folder / "continued.jsonl"
    if not output.exists():
        ended = launch(*dskd("data", "continue", str(chat_spec), "--output", str(output), *SAMPLED))
        assert ended.code == 0
        assert "1 left out: it asks nothing" in ended.output
    return output


def test_the_file_does_not_depend_on_ranks_and_trains(
    tiny: TinyWorld, launch: Launch, chat_spec: Path, reference: Path
) -> None:
    output = tiny.folder / "continued_by_two.jsonl"
    # Here by a spec whose own sources are texts, as README has it.
    settings = [
        word
        for key in ("data.block_tokens=128", "data.chat_template=plain")
        for word in ("--set", key)
    ]
    assert (
        launch(
            *dskd(
                "data",
                "continue",
                str(tiny.spec_file),
                "--input",
                str(tiny.folder / "chats.jsonl"),
                "--output",
                str(output),
                "--ranks",
                "2",
                *SAMPLED,
                *settings,
            )
        ).code
        == 0
    )
    assert output.read_bytes() == reference.read_bytes()
    rows = [json.loads(line) for line in reference.read_text().splitlines()]
    assert len(rows) > 50
    assert len({row["completion"][0]["content"] for row in rows}) > 40
    assert any(row["open_end"] for row in rows)
    source = f'{{path="{output}", format="chat", title_field="title", supervise="completions"}}'
    assert len(train_blocks_of(load_spec(chat_spec, [f"data.train=[{source}]"]))) > 5


def num_written(output: Path) -> int:
    """Batches that are in the parts of an output."""
    return sum(
        path.read_bytes().count(b'"batch"') for path in output.parent.glob(f"{output.name}.part-*")
    )


@pytest.mark.slow
def test_a_killed_job_goes_on(
    tiny: TinyWorld, launch: Launch, chat_spec: Path, reference: Path
) -> None:
    output = tiny.folder / "killed.jsonl"
    words = ["--output", str(output), *SAMPLED]
    command = launchers.continue_command(str(chat_spec), [], 2, words)
    process = subprocess.Popen(
        command,
        env=child_environment(os.environ) | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while num_written(output) < 3:
        assert process.poll() is None, "it ended before it wrote three batches"
        time.sleep(0.01)
    for rank in set(children_with(str(output))) - {process.pid}:
        os.kill(rank, signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    assert 3 <= num_written(output) < 30
    torn = next(iter(tiny.folder.glob("killed.jsonl.part-*")))
    torn.write_bytes(torn.read_bytes() + b'{"batch": 29, "ro')
    other = launch(*dskd("data", "continue", str(chat_spec), *words, "--whole"))
    assert other.code == 2
    assert "written with other settings" in other.output
    ended = launch(
        *dskd("data", "continue", str(chat_spec), *words)
    )  # one rank goes on with what two began
    assert ended.code == 0
    assert output.read_bytes() == reference.read_bytes()
    again = launch(*dskd("data", "continue", str(chat_spec), *words))
    assert again.code == 2
    assert "there is such a file already" in again.output
