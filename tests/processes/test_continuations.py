"""`dskd data continue` writes the same file with any number of ranks and after a kill."""

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
from dskd_ds.runtime.arguments import override_argv
from dskd_ds.runtime.console import child_environment
from dskd_ds.spec import load_spec
from tests.conftest import WORDS, TinyWorld
from tests.of_spec import train_blocks_of
from tests.processes.conftest import Launch, children_with, warm_dskd

pytestmark = pytest.mark.process
SAMPLED = ("--new-tokens", "80", "--temperature", "1.0", "--batch", "2", "--epochs", "2")
EPOCHS = range(2)


def written(output: Path) -> list[bytes]:
    """Return the files of both epochs. output: with {epoch} in its name."""
    return [Path(str(output).format(epoch=epoch)).read_bytes() for epoch in EPOCHS]


@pytest.fixture
def chat_spec(tiny: TinyWorld) -> Path:
    """The tiny spec with 61 conversations, one of which has no question."""
    answer = {"role": "assistant", "content": "a word"}
    rows = []
    for i in range(60):
        first, num_words = i % 20, 1 + i % 7
        words = " ".join(WORDS[first : first + num_words])
        question = {"role": "user", "content": f"what is {words}?"}
        rows.append({"title": str(i), "messages": [question, answer]})
    rows.append({"title": "none", "messages": [answer]})
    source = tiny.folder / "chats.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
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
    """The files that one rank writes, once per session."""
    output = tiny.folder / "continued-{epoch}.jsonl"
    if not Path(str(output).format(epoch=1)).exists():
        ended = launch(
            *warm_dskd("data", "continue", str(chat_spec), "--output", str(output), *SAMPLED)
        )
        assert ended.code == 0
        assert ended.output.count("1 left out: no question before the answer") == 2
    return output


def test_two_ranks_write_the_same_files_and_a_run_reads_them(
    tiny: TinyWorld, launch: Launch, chat_spec: Path, reference: Path
) -> None:
    output = tiny.folder / "continued_by_two-{epoch}.jsonl"
    # As in the README, the sources of this spec are texts and the conversations are an argument.
    chats = str(tiny.folder / "chats.jsonl")
    argv = [
        str(tiny.spec_file),
        *("--input", chats, "--output", str(output), "--ranks", "2"),
        *SAMPLED,
        *override_argv(["data.block_tokens=128", "data.chat_template=plain"]),
    ]
    assert launch(*warm_dskd("data", "continue", *argv)).code == 0
    assert written(output) == written(reference)
    first, second = ([json.loads(line) for line in file.splitlines()] for file in written(output))
    assert len(first) == len(second) == 60
    assert [row["prompt"] for row in first] == [row["prompt"] for row in second]
    continuations = [tuple(row["completion_ids"]) for row in (*first, *second)]
    assert len(set(continuations)) > 80
    source = f'{{path="{output}", format="chat", title_field="title", supervise="completions"}}'
    spec = load_spec(chat_spec, [f"data.train=[{source}]", "data.epoch_files=2"])
    assert all(len(train_blocks_of(spec, epoch)) > 5 for epoch in EPOCHS)


def num_written(output: Path) -> int:
    """Return the number of batches in the parts of an output."""
    parts = output.parent.glob(f"{output.name.format(epoch=0)}.part-*")
    return sum(part.read_bytes().count(b'"batch"') for part in parts)


@pytest.mark.slow
def test_a_killed_job_is_continued(
    tiny: TinyWorld, launch: Launch, chat_spec: Path, reference: Path
) -> None:
    output = tiny.folder / "killed-{epoch}.jsonl"
    argv = ["--output", str(output), *SAMPLED]
    command = launchers.continue_command(str(chat_spec), [], 2, argv)
    process = subprocess.Popen(
        command,
        env=child_environment(os.environ) | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while num_written(output) < 3:
        assert process.poll() is None, "the job ended before it had written three batches"
        time.sleep(0.01)
    for rank in set(children_with(str(output))) - {process.pid}:
        os.kill(rank, signal.SIGKILL)
    process.communicate()
    assert not Path(str(output).format(epoch=0)).exists()
    assert 3 <= num_written(output) < 30
    torn = next(iter(tiny.folder.glob("killed-0.jsonl.part-*")))
    torn.write_bytes(torn.read_bytes() + b'{"batch": 29, "ro')
    other = launch(*warm_dskd("data", "continue", str(chat_spec), *argv, "--whole"))
    assert other.code == 2
    assert "written with other settings" in other.output
    # One rank continues what two ranks began.
    ended = launch(*warm_dskd("data", "continue", str(chat_spec), *argv))
    assert ended.code == 0
    assert written(output) == written(reference)
    again = launch(*warm_dskd("data", "continue", str(chat_spec), *argv))
    assert again.code == 0
    assert again.output.count("complete already, kept as it is") == 2
    one = ["--output", str(output).format(epoch=0), *SAMPLED[:-2]]
    ended = launch(*warm_dskd("data", "continue", str(chat_spec), *one))
    assert ended.code == 2
    assert "the file exists already" in ended.output
