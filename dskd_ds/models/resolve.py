"""Where a model lies: hub name, folder, or GGUF file -> something `from_pretrained` loads quickly.

A GGUF file is dequantised once and kept as safetensors under `$DSKD_HOME/models`, because transformers takes half a minute
for each load and cannot save what it loaded that way (docs/deepspeed.md).
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
from dskd_ds.spec import dskd_home

HEADER_BYTES = 1 << 20
"""A safetensors file begins with the names and places of its tensors."""
NUM_SAMPLES, SAMPLE_BYTES = 64, 1 << 16
"""Of each file, for a fingerprint: 4 MB, whatever its size."""


def resolve_model(model: str, key: str = "[teacher] model") -> str:
    """A folder with safetensors, or a hub name. Converts a GGUF file the first time.

    key: what to call the setting in a message. Raises InputError if a path does not exist or holds no model.
    """
    path = Path(model)
    if model.endswith(".gguf"):
        if not path.is_file():
            raise InputError(
                f'{key} = "{model}", but there is no such file.\n  give the path of a .gguf file, a folder or a hub name.'
            )
        return str(_converted(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(
                f'{key} = "{model}", but this folder holds no config.json.\n  name a folder that save_pretrained wrote.'
            )
        return model
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise InputError(
            f'{key} = "{model}", but there is no such folder.\n  give an existing folder, a .gguf file, or a hub name.'
        )
    return model


def _converted(gguf: Path) -> Path:
    folder = dskd_home() / "models"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{gguf.stem}-{file_sha256(gguf)[:12]}"
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            with atomic_folder(target) as partial:
                _convert(gguf, partial)
    return target


def _convert(gguf: Path, target: Path) -> None:
    """GGUF -> safetensors in bf16 with config and tokenizer, without the quantisation entry that forbids saving."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    config = quantised.config.to_dict()
    config.pop("quantization_config", None)
    config["_name_or_path"] = gguf.stem
    model = AutoModelForCausalLM.from_config(type(quantised.config)(**config), dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


def read_config(model: str, key: str = "[teacher] model") -> Any:
    """The model's transformers config. Raises InputError if it cannot be had or wants to run code of its own."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f'{key} = "{model}", but its configuration cannot be loaded: {reason}\n'
            "  check the name, or download it where there is a network and name the folder."
        ) from None
    if getattr(config, "auto_map", None):
        raise InputError(
            f'{key} = "{model}", but this model brings code of its own (auto_map), which is never run.\n'
            "  use a model of an architecture that transformers has."
        )
    return config


def model_fingerprint(model: str) -> str:
    """Digest that two copies of the same weights share: of the safetensors' sizes, headers and samples, or of the hub commit.

    Samples lie close enough for every layer to be in some of them (a file of 5 GB has one each 80 MB), so two students of one form that
    trained differently differ here; numbers between the samples count only where a file has at most 4 MB.
    """
    digest = hashlib.sha256()
    if not Path(model).is_dir():
        return f"{model}@{getattr(read_config(model), '_commit_hash', None)}"
    for path in sorted([*Path(model).glob("*.safetensors"), Path(model) / "config.json"]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(HEADER_BYTES))
            for number in range(
                NUM_SAMPLES
            ):  # the first at the file's beginning, the last at its end
                file.seek(max(0, size - SAMPLE_BYTES) * number // (NUM_SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def load_tokenizer(model: str) -> Any:
    """The model's fast tokenizer. Raises InputError if it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f'"{model}" has no tokenizer that can be loaded: {str(error).splitlines()[0]}'
        ) from None
    if not tokenizer.is_fast:
        raise InputError(
            f'"{model}" has only a slow tokenizer.\n  use a model with a tokenizer.json.'
        )
    return tokenizer


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Digest of the vocabulary: equal for two tokenizers with the same token ids."""
    content = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
