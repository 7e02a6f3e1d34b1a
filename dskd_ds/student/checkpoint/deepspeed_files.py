"""Reads the files of checkpoints that DeepSpeed wrote for earlier versions, without unpickling.

`torch.load(weights_only=True)` makes tensors, plain values and the classes of STAND_INS only. For
those classes it makes objects of `StandIn`, so no code of DeepSpeed runs, and nothing that a file
names is called.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.student.checkpoint.slice_files import MASTER, MOMENTS, StoredSlice
from dskd_ds.student.run_state import COUNTERS, SCALER_VALUES, State

WHOLE_MODEL = "mp_rank_00_model_states.pt"
"""Name of the model's file up to ZeRO stage 2."""
PARTITIONED_MODEL = "zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
"""Names of the model's files at ZeRO stage 3."""
OPTIMIZER = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
"""Names of the optimiser's files at ZeRO stages 1 to 3."""
STAND_INS = (
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
"""The classes in these files that are neither tensors nor plain values."""


class StandIn:
    """An object of a class that is not loaded: its constructor's arguments and its attributes."""

    def __init__(self, *args: object) -> None:
        self.args = args


@dataclass(frozen=True)
class SavedRank:
    """What one rank had of weights and moments."""

    rank: int
    slices: list[StoredSlice]
    adam_step: int
    """Updates that Adam had made."""
    scaler: dict[str, float]
    """The state of the loss scaler, by the names of SCALER_VALUES."""


class DeepSpeedFiles:
    """A checkpoint of DeepSpeed, whose files have been compared with their manifest."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """names: of the files that the manifest lists.

        Raises InputError if a file has other objects than expected, or if there is none.
        """
        self._folder = folder
        self._optimizers = {
            int(match[1]): folder / name for name in names if (match := OPTIMIZER.fullmatch(name))
        }
        self.is_partitioned = PARTITIONED_MODEL.format(rank=0) in names
        self._model_file = folder / WHOLE_MODEL
        if self.is_partitioned:
            self._model_file = folder / PARTITIONED_MODEL.format(rank=0)
        if self._model_file.name not in names:
            raise InputError(
                f"{folder}: its manifest lists neither {WHOLE_MODEL} nor"
                f" {PARTITIONED_MODEL.format(rank=0)}: this is no checkpoint of DeepSpeed."
            )
        self._model = load_plain(self._model_file)

    @property
    def stage(self) -> str:
        """The ZeRO stage, for messages."""
        if not self._optimizers:
            return "0"
        return "3" if self.is_partitioned else "1 or 2"

    def has_parameter(self, name: str) -> bool:
        """Whether the trained module had a parameter of this name."""
        return name in self._model["module"]

    def counters(self) -> State:
        """Return DeepSpeed's counters of steps."""
        return {name: int(self._model.get(name, 0)) for name in COUNTERS}

    def ranks(self, trained: Sequence[str]) -> Iterator[SavedRank]:
        """Yield the ranks' weights and moments; one rank's files are open at a time.

        trained: names of the trained parameters in the order of the model, for stage 0, whose
        files do not name them. Raises InputError if a file lacks what is expected.
        """
        try:
            if not self._optimizers:
                yield self._unpartitioned(trained)
                return
            num_ranks = len(self._optimizers)
            done: dict[str, int] = {}
            for rank in range(num_ranks):
                content = load_plain(self._optimizers[rank])["optimizer_state_dict"]
                if self.is_partitioned:
                    yield self._rank_of_stage_3(content, rank, num_ranks)
                else:
                    yield self._rank_of_stages_1_and_2(content, rank, done)
            if not self.is_partitioned:
                self._check_complete(done)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise InputError(
                f"{self._folder}: its files are not those of ZeRO stage {self.stage} as DeepSpeed"
                f" 0.19 writes them: {type(error).__name__}: {error}.\n"
                "  this checkpoint cannot be converted."
            ) from None

    def _shapes(self) -> dict[str, int]:
        """Return the trained parameters' numbers of elements, in the order of the buffer."""
        (group,) = self._model["param_shapes"]
        return {name: prod(shape) for name, shape in group.items()}

    def _unpartitioned(self, trained: Sequence[str]) -> SavedRank:
        """Stage 0: the model's file has everything."""
        optimizer, module = self._model["optimizer"], self._model["module"]
        if "fp32_groups" in optimizer:  # bfloat16: float32 copies beside the model
            (masters,) = optimizer["fp32_groups"]
            states, scaler = optimizer["optimizer_state_dict"]["state"], optimizer
        else:
            masters = [module[name] for name in trained]
            states, scaler = optimizer["state"], {}
        slices = []
        for index, (name, master) in enumerate(zip(trained, masters, strict=True)):
            if master.shape != module[name].shape:
                raise ValueError(f"{name} has the shape {tuple(master.shape)} in the optimiser")
            slices.append(_slice(name, 0, master.numel(), master, states.get(index, {})))
        return SavedRank(0, slices, _adam_step(states), _scaler_values(scaler))

    def _rank_of_stage_3(self, content: Any, rank: int, num_ranks: int) -> SavedRank:
        """Stage 3: each rank has an equal share of each parameter; the last may be padding."""
        buffers = content["fp32_flat_groups"]
        states = content["optimizer_state_dict"]["state"]
        master = torch.cat([buffer.view(-1) for buffer in buffers])
        moments = {}
        for kind in MOMENTS:
            if len(states) == len(buffers) and all(kind in state for state in states.values()):
                parts = [states[index][kind].view(-1) for index in range(len(buffers))]
                moments[kind] = torch.cat(parts)
        slices = []
        offset = 0
        for name, numel in self._shapes().items():
            share = -(-numel // num_ranks)
            start = min(rank * share, numel)
            held = slice(offset, offset + min(share, numel - start))
            of_parameter = {kind: tensor[held] for kind, tensor in moments.items()}
            slices.append(_slice(name, start, numel, master[held], of_parameter))
            offset += share
        if offset != len(master):
            raise ValueError(f"rank {rank} has {len(master)} weights, not {offset}")
        return SavedRank(rank, slices, _adam_step(states), _scaler_of(content))

    def _rank_of_stages_1_and_2(self, content: Any, rank: int, done: dict[str, int]) -> SavedRank:
        """Stages 1 and 2: all parameters in one buffer, cut into equal shares.

        done: parameter name -> elements that the ranks before have.
        """
        (master,) = content["single_partition_of_fp32_groups"]
        (fragments,) = content["param_slice_mappings"]
        states = content["base_optimizer_state"]["state"]
        shapes, state = self._shapes(), states.get(0, {})
        slices = []
        for name, fragment in fragments.items():
            start = done.get(name, 0)
            held = slice(fragment.start, fragment.start + fragment.numel)
            moments = {kind: state[kind][held] for kind in MOMENTS if kind in state}
            slices.append(_slice(name, start, shapes[name], master[held], moments))
            done[name] = start + fragment.numel
        return SavedRank(rank, slices, _adam_step(states), _scaler_of(content))

    def _check_complete(self, done: dict[str, int]) -> None:
        """Raise ValueError if the ranks together do not have all weights."""
        for name, numel in self._shapes().items():
            if done.get(name, 0) != numel:
                raise ValueError(f"the ranks have {done.get(name, 0)} of {numel} of {name}")


def load_plain(path: Path) -> Any:
    """Return the content of a file of `torch.save` that has tensors and plain values.

    Tensors are mapped into memory and read when they are used. Objects of the classes in STAND_INS
    become `StandIn`. Raises InputError that names any other class, and for a file that is none.
    """
    allowed = [(StandIn, name) for name in STAND_INS]
    try:
        with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"the class {found[1]}" if found else str(error).splitlines()[0]
        raise InputError(
            f"{path}: the file has more than tensors and plain values, so it is not read:"
            f" {reason}.\n"
            "  DeepSpeed does not write this: find out where the file comes from."
        ) from None


def _slice(
    name: str, start: int, numel: int, master: Tensor, moments: dict[str, Tensor]
) -> StoredSlice:
    """Return a slice of flattened tensors of its own memory, as safetensors wants them."""
    tensors = {MASTER: master, **{kind: moments[kind] for kind in MOMENTS if kind in moments}}
    copies = {kind: tensor.detach().reshape(-1).clone() for kind, tensor in tensors.items()}
    if any(len(copy) != len(copies[MASTER]) for copy in copies.values()):
        raise ValueError(f"the moments of {name} have another size than its weights")
    return StoredSlice(name=name, start=start, numel=numel, tensors=copies)


def _adam_step(states: dict[Any, dict[str, Any]]) -> int:
    return max((int(state["step"]) for state in states.values() if "step" in state), default=0)


def _scaler_of(content: Any) -> dict[str, float]:
    """Return the state of the loss scaler in an optimiser's file."""
    return _scaler_values(vars(content["loss_scaler"]))


def _scaler_values(found: dict[str, Any]) -> dict[str, float]:
    return {name: found[name] for name in SCALER_VALUES if name in found}
