"""Copies a model with only some of its layers, tensor by tensor from file to file.

The model is never loaded as a whole: a 70B model needs no more memory than one shard of the copy.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.models.layers import keep_in_config
from dskd_ds.models.load import check_cut
from dskd_ds.models.named import NamedModel
from dskd_ds.models.resolve import copy_generation

LAYER_NAME = re.compile(r"^(.*\blayers\.)(\d+)(\..*)$")
SHARD_BYTES = 4 << 30
"""A shard of the copy is written once it holds at least this much."""


def cut(model: NamedModel, kept: list[int], target: Path) -> None:
    """Copy a model with only the layers `kept`, renumbered, its configurations and tokenizer.

    Raises InputError if the kept layers do not have the weights that this configuration asks for.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    config = copy.deepcopy(model.config)  # the original is shared (NamedModel.config)
    keep_in_config(config.get_text_config(), kept)
    target.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(target)
    model.tokenizer.save_pretrained(target)
    copy_generation(model.path, target)
    new_number = {old: new for new, old in enumerate(kept)}
    weight_map: dict[str, str] = {}
    shard: dict[str, Any] = {}
    shards: list[Path] = []

    def flush() -> None:
        # Final names contain the number of shards, so these are temporary (see _name_shards).
        shards.append(target / f"part-{len(shards)}.safetensors")
        save_file(shard, shards[-1], metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, shards[-1].name))
        shard.clear()

    for path in weight_files(model.path):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                renamed = _renamed(name, new_number)
                if renamed is None:
                    continue
                shard[renamed] = file.get_tensor(name)
                if sum(tensor.nbytes for tensor in shard.values()) >= SHARD_BYTES:
                    flush()
    flush()
    _name_shards(target, shards, weight_map)
    check_cut(str(target), f'{model.key} = "{model.name}"', kept)


def _renamed(name: str, new_number: dict[int, int]) -> str | None:
    """Return a tensor's name in the copy, or None if its layer is left out.

    new_number: old -> new number of each kept layer.
    """
    match = LAYER_NAME.match(name)
    if match is None:
        return name
    layer = new_number.get(int(match[2]))
    return None if layer is None else f"{match[1]}{layer}{match[3]}"


def _name_shards(target: Path, shards: list[Path], weight_map: dict[str, str]) -> None:
    """Rename the shards to what transformers looks for: one file, or several and an index."""
    if len(shards) == 1:
        shards[0].rename(target / "model.safetensors")
        return
    names = {
        path.name: f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        for i, path in enumerate(shards)
    }
    for path in shards:
        path.rename(target / names[path.name])
    new_map = {name: names[file] for name, file in weight_map.items()}
    index = {"metadata": {}, "weight_map": new_map}
    (target / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=1), encoding="utf-8"
    )


def weight_files(model: str) -> list[Path]:
    """Return a model's safetensors files; a hub name is downloaded first.

    Raises InputError if there are none.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        # Without a pattern the download would include other formats of the same weights.
        folder = Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json"]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(
            f'model "{model}": it has no safetensors files (pickled .bin weights are not read).\n'
            "  use a model that is published as safetensors."
        )
    return files


def read_head_weight(model: str) -> Any:
    """Read the weight [V, D] of the LM head, or of the embedding it is tied to, from the files.

    Raises InputError if there is none.
    """
    from safetensors import safe_open

    def tensors_ending_in(suffix: str) -> Iterator[Any]:
        for path in weight_files(model):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    if name.endswith(suffix):
                        yield file.get_tensor(name)

    # The head comes first: a model with a tied head has only the embedding in its files.
    for suffix in ("lm_head.weight", "embed_tokens.weight", "wte.weight"):
        found = next(tensors_ending_in(suffix), None)
        if found is not None:
            return found
    raise InputError(
        f'model "{model}": no LM head was found in its weights.\n  set [loss] signal = "topk".'
    )
