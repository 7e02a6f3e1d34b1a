"""The student's beginning: the teacher with some of its layers, written as an ordinary Hugging Face folder.

Weights are copied tensor by tensor from file to file, so a 70B model needs no more memory than its largest tensor's shard.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from dskd_ds.errors import InputError
from dskd_ds.layers import check_layers, keep_in_config
from dskd_ds.spec import RunSpec
from dskd_ds.teacher.checkpoint import load_tokenizer, model_fingerprint, read_config, resolve_model

INIT_FOLDER = "student_init"
ORIGIN_FILE = "origin.json"
LAYER_NAME = re.compile(r"^(.*\blayers\.)(\d+)(\..*)$")
SHARD_BYTES = 4 << 30


def student_init(spec: RunSpec) -> str:
    """The model that training starts from: a folder, or a hub name where the spec names a model of its own.

    Cuts the teacher the first time (for `by_impact`, after measuring it); later calls find the folder. Raises InputError.
    """
    if spec.student.model is not None:
        return resolve_model(spec.student.model, "[student] model")
    target = Path(spec.run_dir) / INIT_FOLDER
    target.parent.mkdir(parents=True, exist_ok=True)
    teacher = resolve_model(spec.teacher.model)
    origin = {"teacher": model_fingerprint(teacher),
              **spec.student.model_dump(include={"layers", "num_layers", "keep_layers", "impact_tokens"}, mode="json")}
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return _same_origin(target, origin)
        check_layers(teacher, "[teacher]")
        kept, impact = kept_layers(spec)
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        cut(teacher, kept, partial)
        (partial / ORIGIN_FILE).write_text(json.dumps({"made_from": origin, "kept_layers": kept, "impact": impact}, indent=1))
        partial.rename(target)
    return str(target)


def _same_origin(target: Path, origin: dict[str, Any]) -> str:
    found = json.loads((target / ORIGIN_FILE).read_text())["made_from"]
    if found != origin:
        changed = ", ".join(f"{key}: {found.get(key)} -> {value}" for key, value in origin.items() if found.get(key) != value)
        raise InputError(f"{target}: it was cut with other settings ({changed}).\n"
                         "  delete it to cut a new student, or give the run another run_dir.")
    return str(target)


def kept_layers(spec: RunSpec) -> tuple[list[int], list[float]]:
    """Which of the teacher's layers the student keeps, and what `by_impact` measured (else empty). Raises InputError."""
    student = spec.student
    total = int(read_config(resolve_model(spec.teacher.model)).get_text_config().num_hidden_layers)
    for value in (student.num_layers, max(student.keep_layers, default=None)):
        if value is not None and value > total - (value in student.keep_layers):
            raise InputError(f"[student] {'keep_layers' if student.keep_layers else 'num_layers'}: {value}, but the teacher has "
                             f"{total} layers.\n  keep at most {total}, or name a larger teacher in [teacher] model.")
    if student.layers == "list":
        return list(student.keep_layers), []
    if student.layers == "first":
        return list(range(student.num_layers or total)), []
    if student.layers == "by_impact":
        from dskd_ds.student.impact import removal_losses

        impact = removal_losses(spec)
        hardest = sorted(range(total), key=lambda layer: -impact[layer])[: student.num_layers]
        return sorted(hardest), impact
    return list(range(total)), []


def cut(model: str, kept: list[int], target: Path) -> None:
    """Copy a model with only some of its layers, renumbered; config and tokenizer with it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    config = read_config(model)
    keep_in_config(config.get_text_config(), kept)
    target.mkdir(parents=True)
    config.save_pretrained(target)
    load_tokenizer(model).save_pretrained(target)
    new_number = {old: new for new, old in enumerate(kept)}
    weight_map: dict[str, str] = {}
    shard: dict[str, Any] = {}
    shards: list[Path] = []

    def flush() -> None:
        shards.append(target / f"part-{len(shards)}.safetensors")
        save_file(shard, shards[-1], metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, shards[-1].name))
        shard.clear()

    for path in weight_files(model):
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


def _renamed(name: str, new_number: dict[int, int]) -> str | None:
    match = LAYER_NAME.match(name)
    if match is None:
        return name
    layer = new_number.get(int(match[2]))
    return None if layer is None else f"{match[1]}{layer}{match[3]}"


def _name_shards(target: Path, shards: list[Path], weight_map: dict[str, str]) -> None:
    """The names transformers looks for: one file, or several and an index."""
    if len(shards) == 1:
        shards[0].rename(target / "model.safetensors")
        return
    names = {path.name: f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i, path in enumerate(shards)}
    for path in shards:
        path.rename(target / names[path.name])
    index = {"metadata": {}, "weight_map": {name: names[file] for name, file in weight_map.items()}}
    (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def weight_files(model: str) -> list[Path]:
    """A model's safetensors files; fetched from the hub if it is a hub name. Raises InputError if it has none."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json"]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f'model "{model}": it has no safetensors files (pickled .bin weights are not read).\n'
                         "  use a model that is published as safetensors.")
    return files


def read_head_weight(model: str) -> Any:
    """[V, D] of the LM head, or of the embedding it is tied to, straight from the files."""
    from safetensors import safe_open

    def tensors(suffix: str) -> Iterator[Any]:
        for path in weight_files(model):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    if name.endswith(suffix):
                        yield file.get_tensor(name)

    for suffix in ("lm_head.weight", "embed_tokens.weight", "wte.weight"):
        found = next(tensors(suffix), None)
        if found is not None:
            return found
    raise InputError(f'model "{model}": no LM head was found in its weights.\n  set [loss] signal = "topk".')
