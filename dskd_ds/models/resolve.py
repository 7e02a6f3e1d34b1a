"""Finds and reads a model by its name: a hub name, a folder or a GGUF file.

A GGUF file is dequantised once and kept as safetensors under `$DSKD_HOME/models`, because
transformers takes 12 s for each load of a model of 135 million parameters, instead of 0.5 s, and
cannot save a model that it loaded that way (docs/deepspeed.md, "GGUF models").
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_folder
from dskd_ds.files.hashes import file_sha256
from dskd_ds.models.config_file import refuse_missing_path
from dskd_ds.models.load import load_complete
from dskd_ds.spec import dskd_home

HEADER_BYTES = 1 << 20
"""A safetensors file begins with the names and offsets of its tensors."""
NUM_SAMPLES, SAMPLE_BYTES = 64, 1 << 16
"""Samples of each file for a fingerprint: 4 MB in all, whatever the size of the file."""


def resolve_model(model: str, key: str = "[teacher] model") -> str:
    """Return a folder with safetensors, or a hub name. A GGUF file is converted the first time.

    key: the setting, for messages. Raises InputError if a path does not exist or holds no model.
    """
    refuse_missing_path(model, key)
    path = Path(model)
    if model.endswith(".gguf"):
        return str(_converted(path))
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(
            f'{key} = "{model}", but this folder holds no config.json.\n'
            "  name a folder that save_pretrained wrote."
        )
    return model


def _converted(gguf: Path) -> Path:
    """Return the folder that a GGUF file was converted to; convert it if there is none yet."""
    folder = dskd_home() / "models"
    folder.mkdir(parents=True, exist_ok=True)
    # The hash is in the name, so another file with the same name is converted too.
    target = folder / f"{gguf.stem}-{file_sha256(gguf)[:12]}"
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            with atomic_folder(target) as partial:
                _convert(gguf, partial)
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Write a GGUF file as safetensors in bfloat16, with configuration and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = load_complete(
        str(gguf.parent), f'"{gguf}"', gguf_file=gguf.name, dtype=torch.bfloat16
    )
    # The quantisation entry forbids saving, so the model is built anew without it.
    config = quantised.config.to_dict()
    config.pop("quantization_config", None)
    config["_name_or_path"] = gguf.stem
    model = AutoModelForCausalLM.from_config(type(quantised.config)(**config), dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
    copy_generation(str(gguf.parent), target)


def read_config(model: str, key: str = "[teacher] model") -> Any:
    """Return the model's transformers configuration.

    Raises InputError if it cannot be loaded, or needs code that comes with the model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f'{key} = "{model}", but its configuration cannot be loaded: {reason}\n'
            "  check the name, or download it where there is a network and name the folder."
        ) from None
    # Such a model can have a type that transformers knows too, and would then be read as that type.
    if getattr(config, "auto_map", None):
        raise InputError(
            f'{key} = "{model}", but this model comes with its own code (auto_map), which is never'
            " run.\n  use a model of an architecture that is part of transformers."
        )
    return config


def copy_generation(model: str, target: Path) -> None:
    """Write the settings with which a model generates text into `target`, if it has any.

    The end of turn of a chat model may be in them only. model: a folder or a hub name.
    """
    from transformers import GenerationConfig

    try:
        settings = GenerationConfig.from_pretrained(model)
    except OSError:  # it has none
        return
    # Not `save_pretrained`, which refuses settings of some published models.
    settings.to_json_file(target / "generation_config.json")


def model_fingerprint(model: str) -> str:
    """Return a digest that is equal for two copies of the same weights.

    For a folder it is made from the sizes, headers and samples of the safetensors files; for a hub
    name from its commit. A file of 5 GB has a sample every 80 MB, so every layer is in some of them
    and two students of one shape with different training differ. Numbers between the samples are
    only read in files of at most 4 MB.
    """
    digest = hashlib.sha256()
    if not Path(model).is_dir():
        return f"{model}@{getattr(read_config(model), '_commit_hash', None)}"
    for path in sorted([*Path(model).glob("*.safetensors"), Path(model) / "config.json"]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(HEADER_BYTES))
            # The first sample is at the beginning of the file, the last one at its end.
            last_start = max(0, size - SAMPLE_BYTES)
            for index in range(NUM_SAMPLES):
                file.seek(last_start * index // (NUM_SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def load_tokenizer(model: str) -> Any:
    """Return the model's fast tokenizer. Raises InputError if it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f'"{model}" has no tokenizer that can be loaded: {str(error).splitlines()[0]}\n'
            "  use a model with a tokenizer.json."
        ) from None
    if not tokenizer.is_fast:
        raise InputError(
            f'"{model}" has only a slow tokenizer.\n  use a model with a tokenizer.json.'
        )
    return tokenizer


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of a fast tokenizer: vocabulary, merges and how text is divided."""
    content: str = tokenizer.backend_tokenizer.to_str()
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a digest of the vocabulary; equal for two tokenizers with the same token ids.

    They may divide a text differently: what depends on that needs `tokenizer_digest`.
    """
    # `get_vocab` returns the tokens in no fixed order.
    content = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
