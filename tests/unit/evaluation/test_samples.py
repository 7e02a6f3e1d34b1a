"""What the models read when they continue held-out text, and in which number format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing

from dskd_ds.evaluation.samples import continuations
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld

BOS = "<|endoftext|>"


def with_bos(tiny: TinyWorld, folder: Path) -> Path:
    """A copy of the tiny teacher whose tokenizer starts its output with BOS."""
    shutil.copytree(tiny.folder / "teacher", folder)
    tokenizer = load_tokenizer(str(folder))
    tokenizer.bos_token = BOS
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    return folder


def test_each_model_reads_one_bos_in_its_own_number_format(tiny: TinyWorld, tmp_path: Path) -> None:
    """Also where the text begins with BOS, as many chat templates write it."""
    folder = with_bos(tiny, tmp_path / "teacher")
    texts = [f"{BOS}the bank and the river", "the town and the house"]
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    changes = ["eval.num_samples=2", f'data.heldout=[{{path="{heldout}"}}]']
    spec = load_spec(tiny.spec_file, [*changes, f"teacher.model={folder}"])
    student = NamedModel(str(folder), dtype="bfloat16")
    read: list[tuple[torch.dtype, list[int]]] = []

    def record(module: Any, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and args[0].shape[1] > 1:  # not a new token
            read.append((module.weight.dtype, args[0][0].tolist()))

    with torch.nn.modules.module.register_module_forward_pre_hook(record):
        rows = continuations(spec, RunModels.of(spec), {"student": student})
    assert [row["prompt"] for row in rows] == texts
    assert [dtype for dtype, _ in read] == [torch.float32] * 2 + [torch.bfloat16] * 2
    words = load_tokenizer(str(tiny.folder / "teacher"))
    for index, (_, ids) in enumerate(read):
        assert ids == words(BOS + texts[index % 2].removeprefix(BOS))["input_ids"]
