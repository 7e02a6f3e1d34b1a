"""A rank of a teacher that is divided over the ranks of a launch, compared with the whole teacher.

Called with a folder of models and the signal's positions fixed; each rank writes RANK.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import transformers.modeling_utils
from safetensors import safe_open
from torch.distributed.tensor import DTensor

from dskd_ds.link.messages import Array, Wanted
from dskd_ds.models.frozen import FrozenModel, load_frozen
from dskd_ds.models.named import NamedModel
from dskd_ds.models.tensor_parallel import load_divided
from dskd_ds.runtime.topology import TeacherRank
from dskd_ds.teacher.answer import answer
from dskd_ds.teacher.group import open_world

WANTED = Wanted(
    top_k=12,
    temperatures=(1.0, 2.0),
    num_draws=20,
    draw_temperature=1.0,
    draw_seed=3,
    hidden_format="bfloat16",
)


class CountedSlice:
    """A tensor of a file, of which the bytes that are read are counted."""

    def __init__(self, inner: Any, counts: list[int]) -> None:
        self._inner, self._counts = inner, counts

    def __getitem__(self, index: Any) -> torch.Tensor:
        tensor: torch.Tensor = self._inner[index]
        self._counts.append(tensor.nbytes)
        return tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class CountedFile:
    """A safetensors file whose tensors are counted when they are read."""

    def __init__(self, inner: Any, counts: list[int]) -> None:
        self._inner, self._counts = inner, counts

    def get_slice(self, name: str) -> CountedSlice:
        return CountedSlice(self._inner.get_slice(name), self._counts)

    def get_tensor(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._inner.get_tensor(name)
        self._counts.append(tensor.nbytes)
        return tensor

    def __enter__(self) -> CountedFile:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """Count the bytes of tensors that transformers reads from safetensors files in the block."""
    counts: list[int] = []

    def opened(*args: Any, **kwargs: Any) -> CountedFile:
        return CountedFile(safe_open(*args, **kwargs), counts)

    transformers.modeling_utils.safe_open = opened
    try:
        yield counts
    finally:
        transformers.modeling_utils.safe_open = safe_open


def request(vocab_size: int, num_tokens: int = 40) -> dict[str, Array]:
    """Return a request of two blocks of two documents each, with all parts."""
    draw = np.random.default_rng(0)
    position_ids = np.concatenate([np.arange(25), np.arange(num_tokens - 25)])
    every = np.arange(2 * num_tokens, dtype=np.int32)
    return {
        "input_ids": draw.integers(0, vocab_size, (2, num_tokens)).astype(np.int32),
        "position_ids": np.stack([position_ids] * 2).astype(np.int32),
        "top_k_positions": every[::2],
        "draw_positions": every[1::3],
        "hidden_positions": every[::5],
        "layer_positions": every[:0],
        "targets": np.zeros((0, 0), np.int32),
        "sample_keys": np.zeros((0, 2), np.int64),
    }


def parameter_bytes(model: FrozenModel) -> int:
    """Return the bytes of the parameters that this process holds; a tied one counts once."""
    tensors = [*model.trunk.parameters(), model.head]
    local = [item.to_local() if isinstance(item, DTensor) else item for item in tensors]
    # Not the storages: where weights are mapped from a file, that is the storage of all of them.
    sizes = sorted((item.data_ptr(), item.nbytes) for item in local)
    return sum(dict(sizes).values())  # of a tied weight and its used rows, the larger one counts


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference relative to the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


def difference_of_arrays(found: Array, expected: Array) -> float:
    """Return the largest difference of two arrays, or infinity if their shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))


def compare(folder: Path, lacking_rows: int) -> dict[str, Any]:
    """Compare both ways to load one model. lacking_rows: padding that the student lacks."""
    named = NamedModel(str(folder), dtype="float32")
    vocab_size = named.vocab_size - lacking_rows
    whole = load_frozen(named, vocab_size=vocab_size)
    with counted_bytes() as counts:
        divided = load_divided(named, vocab_size)
    arrays = request(vocab_size)
    ids, positions = (
        torch.tensor(arrays[name], dtype=torch.long) for name in ("input_ids", "position_ids")
    )
    facts: dict[str, Any] = {
        "hidden": largest_difference(
            divided.hidden_states(ids, positions), whole.hidden_states(ids, positions)
        ),
        "parameter_share": parameter_bytes(divided) / parameter_bytes(whole),
        "read_share": sum(counts) / sum(f.stat().st_size for f in folder.glob("*.safetensors")),
        "logit_columns": divided.logits(torch.zeros(1, divided.hidden_size)).shape[1],
    }
    for by_block in (False, True):
        wanted = WANTED.model_copy(update={"by_block": by_block})
        found, expected = (answer(model, arrays, wanted) for model in (divided, whole))
        for name in expected:
            facts[f"{name} {by_block}"] = difference_of_arrays(found[name], expected[name])
    return facts


def main() -> None:
    """Compare every model of the folder and write what was found."""
    models, port = Path(sys.argv[1]), int(sys.argv[2])
    rank, size = int(sys.argv[3]), int(sys.argv[4])
    open_world(TeacherRank(rank, size, port))
    found = {
        folder.name: compare(folder, lacking_rows=8)
        for folder in sorted(models.iterdir())
        if folder.is_dir()
    }
    (models / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
