"""Runs TRL's GKD trainer on given blocks.

side_by_side.py runs this in TRL's own environment, in which this project is not installed.
Settings: forward KL (TRL's beta 0), no on-policy texts (lmbda 0), float32. Each step writes one
line to metrics.jsonl.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer


class StepLines(TrainerCallback):
    """Writes one line per step."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8")

    # The parameters are those of transformers' interface.
    def on_step_end(self, args, state, control, **kwargs) -> None:  # noqa: ARG002
        self.file.write(json.dumps({"step": state.global_step}) + "\n")
        self.file.flush()


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Return a batch of packed blocks in which every token but the first is supervised.

    TRL requires `prompts` too, but does not read them with lmbda 0.
    """
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.clone(),
        "prompts": ids[:, :1],
    }


def main() -> None:
    """Train until the process is ended from outside."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("student", "teacher", "blocks", "run-dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--batch-blocks", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--max-steps", type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    # Not read here: bench/follow.py recognises the processes to measure by this option.
    parser.add_argument("--local_rank", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    blocks = json.loads(Path(args.blocks).read_text(encoding="utf-8"))
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for path in (args.student, args.teacher)
    )
    config = GKDConfig(
        output_dir=args.run_dir,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch_blocks,
        gradient_accumulation_steps=1,
        learning_rate=args.lr,
        lmbda=0.0,
        beta=0.0,
        temperature=1.0,
        seq_kd=False,
        bf16=False,
        fp16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_grad_norm=1.0,
        dataloader_num_workers=0,
        torch_compile=args.compile,
    )
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=config,
        data_collator=collate,
        train_dataset=Dataset.from_dict({"input_ids": blocks}),
        processing_class=AutoTokenizer.from_pretrained(args.teacher),
        callbacks=[StepLines(Path(args.run_dir) / "metrics.jsonl")],
    )
    trainer.train()


if __name__ == "__main__":
    main()
