"""Checkpoints of DeepSpeed, made by hand: read without unpickling, and converted whole or not.

Those that DeepSpeed itself has written are converted in tests/processes/test_checkpoints.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import write_manifest
from dskd_ds.models.named import RunModels
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.checkpoint.deepspeed_files import DeepSpeedFiles
from dskd_ds.student.checkpoint.folders import checkpoint_dir, complete_tags
from dskd_ds.student.checkpoint.slice_files import MASTER, MOMENTS, SavedSlices, write_slices
from dskd_ds.student.convert import convert_checkpoint
from tests.conftest import TinyWorld

KINDS = (MASTER, *MOMENTS)
SHAPES = {"a": torch.Size([5, 3]), "b": torch.Size([7]), "c": torch.Size([1])}
TAG = "step-00000002"


def whole(kind: str) -> dict[str, Tensor]:
    """Return made values of all parameters, flattened; different ones for each kind."""
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    return {name: torch.randn(shape.numel(), generator=generator) for name, shape in SHAPES.items()}


def adam(buffers: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Return the state dict of torch's Adam after 2 steps. buffers: its moments, by kind."""
    states = {
        index: {"step": torch.tensor(2.0), **moments} for index, moments in enumerate(buffers)
    }
    return {"state": states, "param_groups": [{"params": list(states), "betas": (0.9, 0.999)}]}


def model_file(module: dict[str, Any], **more: Any) -> dict[str, Any]:
    counters = {"global_steps": 2, "global_samples": 4, "skipped_steps": 1}
    return {"module": module, "param_shapes": [SHAPES], "optimizer": None, **counters, **more}


def write_stage_3(folder: Path, num_ranks: int, scaler: object) -> None:
    """Write what DeepSpeed writes at stage 3, with a and b in one buffer and c in another."""
    for rank in range(num_ranks):
        buffers: list[dict[str, Tensor]] = []
        for names in (("a", "b"), ("c",)):
            parts = {
                kind: [share(whole(kind)[n], rank, num_ranks) for n in names] for kind in KINDS
            }
            buffers.append({kind: torch.cat(tensors) for kind, tensors in parts.items()})
        content = {
            "zero_stage": ZeroStageEnum.weights,
            "loss_scaler": scaler,
            "fp32_flat_groups": [buffer[MASTER] for buffer in buffers],
            "optimizer_state_dict": adam([{k: b[k] for k in MOMENTS} for b in buffers]),
        }
        prefix = f"zero_pp_rank_{rank}_mp_rank_00"
        torch.save(model_file({}), folder / f"{prefix}_model_states.pt")
        torch.save({"optimizer_state_dict": content}, folder / f"{prefix}_optim_states.pt")


def share(tensor: Tensor, rank: int, num_ranks: int) -> Tensor:
    """Return a rank's share of a flattened parameter; the last ones are padded."""
    size = -(-len(tensor) // num_ranks)
    padded = torch.cat([tensor, torch.zeros(size * num_ranks - len(tensor))])
    return padded[rank * size : (rank + 1) * size]


def write_stage_2(folder: Path, num_ranks: int, scaler: object) -> None:
    """Write what DeepSpeed writes at stage 2: one buffer, padded, in equal shares of the ranks."""
    flat = {kind: torch.cat(list(whole(kind).values())) for kind in KINDS}
    size = -(-len(flat[MASTER]) // num_ranks)
    torch.save(model_file(dict.fromkeys(SHAPES)), folder / "mp_rank_00_model_states.pt")
    for rank in range(num_ranks):
        begin, end = rank * size, (rank + 1) * size
        fragments, first = {}, 0
        for name, shape in SHAPES.items():
            lower, upper = max(first, begin), min(first + shape.numel(), end)
            if lower < upper:
                fragments[name] = fragment_address(numel=upper - lower, start=lower - begin)
            first += shape.numel()
        parts = {kind: share(flat[kind], rank, num_ranks) for kind in KINDS}
        content = {
            "zero_stage": ZeroStageEnum.gradients,
            "loss_scaler": scaler,
            "single_partition_of_fp32_groups": [parts[MASTER]],
            "base_optimizer_state": adam([{kind: parts[kind] for kind in MOMENTS}]),
            "param_slice_mappings": [fragments],
        }
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": content}, folder / name)


def write_stage_0(folder: Path, num_ranks: int, scaler: object) -> None:
    """Write what DeepSpeed writes at stage 0 in float32."""
    del num_ranks, scaler
    module = {name: whole(MASTER)[name].view(shape) for name, shape in SHAPES.items()}
    moments = [
        {kind: whole(kind)[name].view(shape) for kind in MOMENTS} for name, shape in SHAPES.items()
    ]
    content = model_file(module, optimizer=adam(moments))
    torch.save(content, folder / "mp_rank_00_model_states.pt")


def files_of(folder: Path) -> DeepSpeedFiles:
    return DeepSpeedFiles(folder, [path.name for path in folder.iterdir()])


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("write", [write_stage_0, write_stage_2, write_stage_3])
def test_every_stage_is_read_whole(tmp_path: Path, write: Any, num_ranks: int) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    write(old, num_ranks, LossScaler(1.0))
    files = files_of(old)
    assert files.counters() == {"global_steps": 2, "global_samples": 4, "skipped_steps": 1}
    paths = []
    for saved in files.ranks(list(SHAPES)):
        assert saved.adam_step == 2
        own = [piece for piece in saved.slices if piece.tensors[MASTER].numel()]
        paths += write_slices(new, f"rank-{saved.rank}", own)
    with SavedSlices(paths) as found:
        assert found.numel.keys() == SHAPES.keys()
        for kind in KINDS:
            for name, expected in whole(kind).items():
                assert torch.equal(found.read_whole(name, kind), expected), (name, kind)


def test_the_dynamic_loss_scale_comes_along(tmp_path: Path) -> None:
    scaler = DynamicLossScaler(2.0**7, 100, 1.0, delayed_shift=2, consecutive_hysteresis=False)
    scaler.cur_iter, scaler.last_overflow_iter = 9, 5
    write_stage_3(tmp_path, 2, scaler)
    for saved in files_of(tmp_path).ranks([]):
        assert saved.scaler["cur_scale"] == 128
        assert (saved.scaler["cur_iter"], saved.scaler["last_overflow_iter"]) == (9, 5)


def test_ranks_that_lack_weights_are_refused(tmp_path: Path) -> None:
    write_stage_2(tmp_path, 3, LossScaler(1.0))
    (tmp_path / "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(InputError, match=r"the ranks have 1 of 7 of b\.\n.*cannot be converted"):
        list(files_of(tmp_path).ranks([]))


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("place", ["model", "optimizer"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, place: str) -> None:
    folder, mark = tmp_path / "old", tmp_path / "executed"
    folder.mkdir()
    write_stage_3(folder, 1, Planted(mark) if place == "optimizer" else LossScaler(1.0))
    if place == "model":
        name = "zero_pp_rank_0_mp_rank_00_model_states.pt"
        torch.save(model_file({"a": Planted(mark)}), folder / name)
    with pytest.raises(InputError, match=r"more than tensors and plain values.*posix\.system"):
        list(files_of(folder).ranks([]))
    assert not mark.exists()


@pytest.fixture
def spec(tiny: TinyWorld, tmp_path: Path) -> RunSpec:
    """The spec of a run with an old checkpoint after step 2, by 2 students."""
    settings = ["loss.sense_weight=0", "student.layers=first"]
    spec = load_spec(tiny.spec_file, [f"run_dir={tmp_path / 'run'}", *settings])
    folder = checkpoint_dir(spec) / TAG
    folder.mkdir(parents=True)
    write_stage_3(folder, 2, LossScaler(1.0))
    write_manifest(folder, {"step": 2, "tokens": 256, "num_students": 2})
    return spec


def test_the_original_stays_beside_the_converted_one(spec: RunSpec) -> None:
    before = {path.name for path in (checkpoint_dir(spec) / TAG).iterdir()}
    converted = convert_checkpoint(spec, RunModels.of(spec))
    folders = {path.name for path in checkpoint_dir(spec).iterdir()}
    assert folders == {TAG, f"deepspeed-{TAG}"}
    assert {path.name for path in (checkpoint_dir(spec) / f"deepspeed-{TAG}").iterdir()} == before
    names = {path.name for path in converted.iterdir()}
    assert names == {
        "manifest.json",
        *(
            f"student-0000{rank}{ending}"
            for rank in (0, 1)
            for ending in ("-000.safetensors", ".json")
        ),
    }
    with pytest.raises(InputError, match="no checkpoint of an earlier version to convert"):
        convert_checkpoint(spec, RunModels.of(spec))


def test_a_conversion_that_was_killed_between_its_renames_is_finished(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def rename_the_original_only(path: Path, target: Path) -> Any:
        if path.name.startswith("converted-"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_the_original_only)
        with pytest.raises(KeyboardInterrupt):
            convert_checkpoint(spec, RunModels.of(spec))
    assert complete_tags(spec) == []
    with pytest.raises(InputError, match=rf"to convert\.\n.*complete: {TAG}"):
        convert_checkpoint(spec, RunModels.of(spec))


@pytest.mark.parametrize("fault", ["flipped", "planted"])
def test_damaged_and_unlisted_files_are_refused(spec: RunSpec, fault: str) -> None:
    folder = checkpoint_dir(spec) / TAG
    if fault == "planted":
        (folder / "zero_pp_rank_2_mp_rank_00_optim_states.pt").write_bytes(b"planted")
    else:
        path = folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    message = {"planted": "not listed", "flipped": "its content differs from the manifest"}[fault]
    with pytest.raises(InputError, match=message):
        convert_checkpoint(spec, RunModels.of(spec))
    assert [path.name for path in checkpoint_dir(spec).iterdir()] == [TAG]


def test_a_tag_that_does_not_exist_is_named(spec: RunSpec) -> None:
    with pytest.raises(InputError, match=rf"no step-7 of an earlier.*\n.*earlier versions: {TAG}"):
        convert_checkpoint(spec, RunModels.of(spec), "step-7")
