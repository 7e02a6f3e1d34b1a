"""The paper's settings in the tiny world, for tests against one process of plain torch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.conftest import WORDS, TinyWorld

NUM_CHATS, SEED, LR, DROPOUT = 12, 3, 2e-3, 0.1


def write_chats(folder: Path) -> Path:
    """Write conversations of very different lengths, whose last answer was cut."""
    draw = random.Random(0)
    lines = []
    for number in range(NUM_CHATS):
        words = draw.choices(WORDS, k=3 + 12 * number)
        turns = [("user", " ".join(words)), ("assistant", draw.choice(WORDS))]
        messages = [{"role": role, "content": text} for role, text in turns]
        lines.append(json.dumps({"messages": messages, "open_end": True}))
    path = folder / "chats.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def paper_tree(tiny: TinyWorld, folder: Path, chats: Path) -> dict[str, Any]:
    """The paper's settings in the tiny world."""
    tree: dict[str, Any] = tiny.spec_tree()
    tree |= {"run_dir": str(folder / "run"), "seed": SEED, "deepspeed": "ds_configs/zero2.json"}
    tree["teacher"]["dtype"] = "bfloat16"
    tree["student"] = {
        "layers": "first",
        "num_layers": 2,
        "train_last_layers": 1,
        "dtype": "bfloat16",
        "precision": "bf16",
        "attention_dropout": DROPOUT,
    }
    tree["data"] = {
        "train": [{"path": str(chats), "format": "chat"}],
        "chat_template": "plain",
        "heldout_fraction": 0.0,
        "packing": "none",
        "max_lost_fraction": 0.0,
        "block_tokens": 32,
    }
    tree["senses"] |= {
        "candidates": "lexical",
        "min_positions": 25,
        "positions": "independent",
        "position_rounding": "down",
        "own_in_pull": "with_synonyms",
        "own_in_push": "with_antonyms",
    }
    tree["loss"] = {"signal": "exact", "temperature": 2.0, "normalise": "sequence"}
    tree["optimizer"] = {"lr": LR, "max_grad_norm": 0.0}
    tree["train"] = {"num_epochs": 2.0, "global_batch_blocks": 3}
    tree["topology"]["num_students"] = 3
    tree["link"] = {"teacher_wait_seconds": 400.0}
    return tree
