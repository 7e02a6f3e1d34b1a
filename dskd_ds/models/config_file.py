"""Reads a model's configuration as plain data, without torch and transformers, for the planner.

A folder has it in config.json. Of a hub name the file is taken from the local cache. If it is not
there, public_models.toml lists the sizes of well-known models; for any other model this one file is
downloaded, without the weights. A GGUF file has the sizes in its header.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.models.public_models import public_config
from dskd_ds.spec import dskd_home

GGUF_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}
"""Entries of a configuration, and a GGUF header's keys without the name of the architecture."""


WEIGHT_ENDINGS = {".bin", ".json", ".pt", ".pth", ".safetensors"}
"""Endings of files in a model's folder. A name that ends so is no hub name."""


def refuse_missing_path(model: str, key: str) -> None:
    """Raise InputError if a model's name is a path that does not exist. key: the setting.

    Hub names are `name` or `owner/name`; whether such a model exists is seen when it is read.
    """
    path = Path(model)
    if model.endswith(".gguf"):
        if not path.is_file():
            raise InputError(
                f'{key} = "{model}", but there is no such file.\n'
                "  give the path of a .gguf file, a folder or a hub name."
            )
        return
    is_local = model.startswith(("/", ".", "~")) or model.count("/") > 1
    if not path.is_dir() and (is_local or path.suffix in WEIGHT_ENDINGS):
        raise InputError(
            f'{key} = "{model}", but there is no such folder.\n'
            "  give an existing folder, a .gguf file, or a hub name."
        )


def read_config_file(model: str, key: str = "[teacher] model") -> dict[str, Any]:
    """Return the content of a model's config.json, or the same entries of a GGUF file's header.

    model: a folder, a hub name or a GGUF file. key: the setting that names it, for messages.
    Raises InputError if there is none.
    """
    refuse_missing_path(model, key)
    path = Path(model)
    converted = None
    if model.endswith(".gguf"):
        converted = _converted_config(path)
        if converted is None:
            return _gguf_config(path, key)
    file = converted or (path / "config.json" if path.is_dir() else _cached_hub_file(model))
    if file is None:
        known = public_config(model)
        if known is not None:
            return known
        file = _downloaded_hub_file(model, key)
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f'{key} = "{model}", but its configuration cannot be read: {error}.\n'
            "  name a folder that save_pretrained wrote, a .gguf file, or a hub name."
        ) from None
    return content


def _converted_config(gguf: Path) -> Path | None:
    """Return the config.json of the converted copy of a GGUF file (models/resolve.py), if there is
    one: reading the header of a GGUF file takes seconds, because it lists all tokens.

    A copy that is older than the file belongs to another file of this name.
    """
    copies = (dskd_home() / "models").glob(f"{gguf.stem}-{'?' * 12}/config.json")
    newest = max(copies, key=lambda file: file.stat().st_mtime, default=None)
    if newest is None or newest.stat().st_mtime < gguf.stat().st_mtime:
        return None
    return newest


def _cached_hub_file(model: str) -> Path | None:
    """Return the local copy of a hub model's config.json, or None if there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None  # the download says what is wrong with the name
    return Path(found) if isinstance(found, str) else None


def _downloaded_hub_file(model: str, key: str) -> Path:
    """Download a hub model's config.json. Raises InputError if that fails."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, "config.json"))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f'{key} = "{model}", but its configuration cannot be loaded: {reason}\n'
            "  check the name, or download it where there is a network and name the folder."
        ) from None


def _gguf_config(path: Path, key: str) -> dict[str, Any]:
    """Return the entries of a configuration that a GGUF file's header gives.

    Raises InputError if the file is no GGUF file.
    """
    from gguf import GGUFReader

    try:
        return _entries_of(GGUFReader(path))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(
            f'{key} = "{path}", but its header cannot be read: {error}.\n'
            "  use a whole .gguf file of a language model."
        ) from None


def _entries_of(reader: Any) -> dict[str, Any]:
    """Return the entries that a GGUF reader's fields and tensors give."""
    kind = str(reader.fields["general.architecture"].contents())
    config: dict[str, Any] = {"model_type": kind}
    for entry, key in GGUF_KEYS.items():
        field = reader.fields.get(f"{kind}.{key}")
        if field is not None:
            config[entry] = field.contents()
    shapes = {tensor.name: [int(size) for size in tensor.shape] for tensor in reader.tensors}
    # GGUF lists the sizes of a tensor from the innermost one.
    config["vocab_size"] = shapes["token_embd.weight"][-1]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    return config
