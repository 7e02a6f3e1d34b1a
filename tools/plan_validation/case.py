"""A run whose memory is measured and predicted: its model and its spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transformers import LlamaConfig

from dskd_ds.spec import RunSpec, load_spec


@dataclass(frozen=True)
class Case:
    """A run whose memory is measured."""

    name: str
    hidden: int = 512
    width: int = 1536
    """Of the MLP."""
    layers: int = 8
    vocab: int = 32_000
    overrides: list[str] = field(default_factory=list)
    tied: bool = True
    sense_positions: int = 0
    held_out: bool = False


def model_folder(case: Case, folder: Path) -> Path:
    """Return a folder with the configuration of a case's model, written on the first call."""
    tied = "tied" if case.tied else "untied"
    target = folder / f"{case.hidden}-{case.width}-{case.layers}-{case.vocab}-{tied}"
    if not (target / "config.json").is_file():
        config = LlamaConfig(
            hidden_size=case.hidden,
            intermediate_size=case.width,
            num_hidden_layers=case.layers,
            num_attention_heads=case.hidden // 64,
            num_key_value_heads=case.hidden // 64,
            vocab_size=case.vocab,
            tie_word_embeddings=case.tied,
        )
        config.save_pretrained(target)
    return target


BASE_SPEC = """\
name = "case"
run_dir = "case"
deepspeed = "ds_configs/zero3_cpu.json"
teacher = {model = "teacher"}
topology = {num_students = 2}
train = {num_steps = 3, global_batch_blocks = 2}
data = {train = [{path = "text.txt"}], block_tokens = 256}
senses = {dictionary = "senses", candidates = "neighbours"}
student = {dtype = "float32"}
"""
"""What the cases override. No text and no dictionary is read."""


def case_spec(case: Case, model: Path) -> RunSpec:
    """Return the run spec of a case."""
    senses = "1.0" if case.sense_positions else "0"
    base = model.parent / "base.toml"
    base.write_text(BASE_SPEC, encoding="utf-8")
    return load_spec(
        base,
        [
            f"teacher.model={model}",
            f"student.model={model}",
            f"loss.sense_weight={senses}",
            *case.overrides,
        ],
    )
