"""A tiny world for tests, made once per session: tokenizer, teacher, text, WordNet sample, spec."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import tomli_w

from tests.order import place_of

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest runs two files at a time (pyproject.toml)
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# No test depends on how fast the machine is.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")

WORDS = [
    "bank",
    "river",
    "money",
    "water",
    "happy",
    "unhappy",
    "glad",
    "sad",
    "big",
    "small",
    "large",
    "tiny",
    "fast",
    "slow",
    "quick",
    "city",
    "town",
    "house",
    "home",
    "cold",
    "warm",
    "hot",
    "good",
    "bad",
    "light",
    "dark",
    "early",
    "late",
    "open",
    "closed",
    "strong",
    "weak",
    "young",
    "old",
    "the",
    "of",
    "and",
    "in",
    "to",
    "is",
    "was",
    "with",
]

SYNSETS = {
    "adj": [
        (("happy", "glad"), 1),
        (("unhappy", "sad"), 0),
        (("big", "large"), 3),
        (("small", "tiny"), 2),
        (("fast", "quick"), 5),
        (("slow",), 4),
        (("hot",), 7),
        (("cold",), 6),
    ],
    "noun": [
        (("bank", "depository financial institution"), None),
        (("city", "town"), None),
        (("house", "home"), None),
    ],
    "verb": [],
    "adv": [],
}
"""part of speech -> (words, index of a synset; the first words of both synsets are antonyms)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by file; within a file they keep their order."""
    items.sort(key=lambda item: place_of(item.path))


@dataclass(frozen=True)
class TinyWorld:
    """Paths of the tiny world."""

    folder: Path
    spec_file: Path

    def spec_tree(self) -> dict[str, object]:
        """Return the spec as a tree, for tests that change it."""
        import tomllib

        return tomllib.loads(self.spec_file.read_text())

    def spec_tree_with(self, changes: dict[str, dict[str, object]]) -> dict[str, object]:
        """Return the spec as a tree, with some settings changed: section -> key -> value."""
        tree = self.spec_tree()
        for section, settings in changes.items():
            part = tree.get(section, {})
            assert isinstance(part, dict)
            tree[section] = part | settings
        return tree


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """Write the tiny world of this session."""
    folder = tmp_path_factory.mktemp("tiny")
    os.environ["DSKD_HOME"] = str(folder / "home")
    os.environ["HF_DATASETS_CACHE"] = str(folder / "datasets")
    write_text(folder)
    write_wordnet(folder / "wordnet")
    write_model(folder / "teacher", folder, num_layers=4, seed=0)
    spec_file = folder / "tiny.toml"
    spec_file.write_text(tomli_w.dumps(spec_tree(folder)))
    return TinyWorld(folder, spec_file)


def spec_tree(folder: Path) -> dict[str, object]:
    """Return a spec with hybrid candidates, the top-k signal, two students and a teacher."""
    return {
        "name": "tiny",
        "run_dir": str(folder / "run"),
        "deepspeed": "ds_configs/zero3_cpu.json",
        "seed": 1,
        "teacher": {"model": str(folder / "teacher"), "dtype": "float32"},
        "student": {
            "layers": "by_impact",
            "num_layers": 2,
            "impact_tokens": 64,
            "dtype": "float32",
        },
        "data": {
            "block_tokens": 32,
            "train": [{"path": str(folder / "train.jsonl"), "title_field": "title"}],
            "heldout": [{"path": str(folder / "heldout.jsonl"), "title_field": "title"}],
        },
        "senses": {
            "dictionary": str(folder / "senses"),
            "collect_tokens": 4096,
            "lexicons": [{"kind": "wordnet", "path": str(folder / "wordnet")}],
            "num_senses": 4,
            "index_dims": 8,
            "index_search_effort": 64,
            "num_neighbours": 16,
            "min_positions": 4,
        },
        "loss": {"top_k": 16, "sense_weight": 0.5, "chunk_positions": 16},
        "optimizer": {"lr": 1e-3},
        "train": {"num_steps": 6, "global_batch_blocks": 4},
        "topology": {"num_students": 2, "num_teachers": 1},
        "checkpoint": {"every_steps": 3, "keep": 5},
        "eval": {"num_tokens": 256, "num_samples": 1, "sample_tokens": 4},
    }


def write_text(folder: Path) -> None:
    """Write documents of random words; two titles are in both files."""
    draw = random.Random(0)
    for name, num_documents, first in (("train", 120, 0), ("heldout", 12, 118)):
        lines = []
        for number in range(first, first + num_documents):
            words = draw.choices(WORDS, k=draw.randint(5, 60))
            lines.append(json.dumps({"title": f"document {number}", "text": " ".join(words)}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def write_wordnet(folder: Path) -> None:
    """Write the sample in WordNet's format (wndb(5WN)), with the licence lines."""
    folder.mkdir()
    letters = {"adj": "a", "noun": "n", "verb": "v", "adv": "r"}
    for part, synsets in SYNSETS.items():
        lines = [
            "  1 This software and database is being provided to you, the LICENSEE,",
            "  2 by Princeton University",
        ]
        for number, (words, opposite) in enumerate(synsets):
            fields = [f"{number:08d}", "00", letters[part], f"{len(words):02x}"]
            fields += [item for word in words for item in (word.replace(" ", "_"), "0")]
            if opposite is None:
                fields += ["000"]
            else:
                fields += ["001", "!", f"{opposite:08d}", letters[part], "0101"]
            # A gloss that denies something makes `unhappy` a negation.
            gloss = "not happy" if "unhappy" in words else f"the meaning of {words[0]}"
            lines.append(" ".join(fields) + f" | {gloss}")
        (folder / f"data.{part}").write_text("\n".join(lines) + "\n")


def write_model(
    target: Path,
    folder: Path,
    num_layers: int,
    seed: int,
    tied: bool = True,
    hidden_size: int = 32,
    extra_rows: int = 0,
) -> Path:
    """Write a random Llama whose tokenizer has each word of WORDS, with its space, as one token.

    folder: holds train.jsonl, from which the tokenizer is trained.
    extra_rows: rows of padding in the vocabulary.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [json.loads(line)["text"] for line in (folder / "train.jsonl").read_text().splitlines()]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([f" {text}" for text in texts], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast) + extra_rows,
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        eos_token_id=0,
        bos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(target)
    fast.save_pretrained(target)
    return target
