"""`dskd data pack` writes the same bytes with any number of real ranks and after a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
import tomli_w

from dskd_ds.data.source import open_source
from dskd_ds.runtime import launch as launchers
from dskd_ds.runtime.console import child_environment
from dskd_ds.spec import load_spec
from tests.conftest import WORDS, TinyWorld
from tests.of_spec import teacher_of
from tests.processes.conftest import Launch, children_with, dskd, wait_until
from tests.unit.data.packs import contents

pytestmark = [pytest.mark.process, pytest.mark.slow]


def write_spec(tiny: TinyWorld) -> Path:
    """Write the tiny spec with 12,000 texts, of which 10,800 are eleven shards, and weights."""
    draw = random.Random(4)
    sources = []
    for name, num_texts in (("many", 12_000), ("few", 300)):
        path = tiny.folder / f"{name}.jsonl"
        texts = (" ".join(draw.choices(WORDS, k=draw.randint(20, 80))) for _ in range(num_texts))
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        sources.append({"path": str(path), "weight": 1.5})
    tree = tiny.spec_tree()
    tree["data"] = {
        "block_tokens": 32,
        "heldout_fraction": 0.1,
        "train": sources,
        "packed": str(tiny.folder / "pack-one"),
    }
    path = tiny.folder / "pack.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


def test_ranks_and_kills_do_not_change_the_bytes(tiny: TinyWorld, launch: Launch) -> None:
    spec_file = write_spec(tiny)
    ended = launch(*dskd("data", "pack", str(spec_file)))
    assert ended.code == 0
    assert ended.output.count("tokens per second") == 2
    expected = contents(tiny.folder / "pack-one")
    assert len([name for name in expected if name.endswith(".arrow")]) == 11 + 1
    packed = tiny.folder / "pack-killed"
    override = f'data.packed="{packed}"'
    process = subprocess.Popen(
        launchers.pack_command(str(spec_file), [override], 3),
        env=child_environment(os.environ) | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    blocks = packed / "source-0.partial" / "blocks"
    wait_until(lambda: len(list(blocks.glob("*.json"))) >= 2, process)
    for rank in set(children_with(str(packed))) - {process.pid}:
        os.kill(rank, signal.SIGKILL)
    process.communicate()
    assert not (packed / "source-0").exists()
    # A file of blocks is done when its record stands beside it.
    written = [path for path in blocks.glob("*.arrow") if path.with_suffix(".json").is_file()]
    done = {path: path.stat().st_mtime_ns for path in written}
    ended = launch(*dskd("data", "pack", str(spec_file), "--ranks", "2", "--set", override))
    assert ended.code == 0
    assert contents(packed) == expected
    # Renaming the folder keeps the times of its files: what was written before the kill stayed.
    kept = {path.name: time for path, time in done.items()}
    now = {path.name: path.stat().st_mtime_ns for path in (packed / "source-0").glob("*.arrow")}
    assert kept
    assert kept.items() <= now.items()
    spec = load_spec(spec_file)
    source = open_source(spec.data, teacher_of(spec).tokenizer, seed=1, step_blocks=4)
    assert len(source.get(10**9)[1]["input_ids"]) == 32
    ended = launch(*dskd("train", str(spec_file), "--dry-run", "--set", "loss.sense_weight=0"))
    assert ended.code == 0
    assert "text: packed in" in ended.output
    (tiny.folder / "few.jsonl").write_text('{"text": "the city"}\n')
    ended = launch(*dskd("train", str(spec_file), "--dry-run", "--set", "loss.sense_weight=0"))
    assert ended.code == 2
    assert "few.jsonl had" in ended.output
    assert "dskd data pack SPEC" in ended.output
