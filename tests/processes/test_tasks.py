"""The questions of a task, asked by `dskd eval` and by a separate `lm_eval` process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from dskd_ds.evaluation.items import items_path, read_items
from dskd_ds.runtime.devices import resolve_dtype
from tests.conftest import TinyWorld
from tests.processes.conftest import Launch, warm_dskd
from tests.unit.evaluation.tasks.test_questions import quartz_rows, write_rows

pytestmark = [pytest.mark.process, pytest.mark.slow]

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def model(tiny: TinyWorld, tmp_path: Path) -> Path:
    """The tiny teacher, with a chat template."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tiny.folder / "teacher").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.timeout(900)
def test_a_separate_lm_eval_gives_the_same_answers(
    model: Path, launch: Launch, tmp_path: Path
) -> None:
    write_rows(tmp_path / "data" / "quartz.jsonl", quartz_rows(20))
    output = tmp_path / "out"
    ended = launch(
        *warm_dskd("eval", "--tasks", "quartz", "--model", f"mine={model}"),
        *("--data-dir", str(tmp_path / "data"), "--output", str(output), "--batch-size", "4"),
        marker=str(tmp_path),
        timeout=300,
    )
    assert ended.code == 0
    assert "accuracy by label probability" in ended.output
    ours = read_items(items_path(output, "quartz", "mine"))

    # What `dskd eval` takes by itself: bfloat16 where this machine multiplies it, else float32.
    dtype = str(resolve_dtype("auto")).removeprefix("torch.")
    theirs = launch(
        *(sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "4"),
        *("--model_args", f"pretrained={model},dtype={dtype},softmax_dtype=float32"),
        *("--include_path", str(output / "harness"), "--tasks", "quartz_label,quartz_exact"),
        *("--log_samples", "--output_path", str(tmp_path / "theirs")),
        marker=str(tmp_path),
        timeout=500,
    )
    assert theirs.code == 0
    for scoring, keys in (("label", ("accuracy", "margin", "brier")), ("exact", ("exact",))):
        (path,) = (tmp_path / "theirs").rglob(f"samples_quartz_{scoring}_*.jsonl")
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        samples.sort(key=lambda sample: sample["doc_id"])
        assert len(samples) == len(ours.clusters) > 0
        for key in keys:
            assert np.array_equal([sample[key] for sample in samples], ours.values[key]), key
