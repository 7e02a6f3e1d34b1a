"""What a rank holds of the training state: slices of the optimiser's weights and Adam's moments.

Every ZeRO stage keeps them in another way (zero_stages.py). Here they are one list: which range of
which parameter is where in which buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import deepspeed.comm as dist
import torch
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.student.checkpoint.slice_files import MASTER, MOMENTS, SavedSlices, StoredSlice


@dataclass(frozen=True)
class HeldSlice:
    """A range of a flattened parameter, and where this rank holds it."""

    name: str
    numel: int
    """Number of elements of the whole parameter."""
    start: int
    """Index of the first held element in the flattened parameter."""
    count: int
    buffer: Tensor
    """The tensor that Adam updates, which contains the range."""
    offset: int
    """Index of the first held element in the flattened buffer."""

    def of(self, tensor: Tensor) -> Tensor:
        """Return the range in `buffer`, or in a moment of the same shape, without a copy."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.count)

    def narrow(self, start: int, count: int) -> HeldSlice:
        """Return a part of the slice. start: index in the flattened parameter."""
        return replace(self, start=start, count=count, offset=self.offset + start - self.start)


@dataclass(frozen=True)
class HeldState:
    """The slices that this rank holds, and the optimiser that has their moments."""

    slices: list[HeldSlice]
    adam: torch.optim.Optimizer
    is_replicated: bool
    """Whether every rank holds all of it, so that each writes only a share."""
    refresh_weights: Callable[[], None]
    """Copies the optimiser's weights to the model. A collective call."""

    def adam_step(self) -> int:
        """Return how many updates Adam has made."""
        # DeepSpeed's fused kernel counts in the last tensor of a group only, hence the maximum.
        steps = [int(state.get("step", 0)) for state in self.adam.state.values()]
        return max(steps, default=0)

    def own_slices(self) -> Iterator[StoredSlice]:
        """Yield what this rank writes into a checkpoint. The tensors are not copied."""
        for held in self.slices:
            own = self._own_part(held)
            if own.count == 0:
                continue
            tensors = {MASTER: own.of(own.buffer)}
            moments = self.adam.state.get(own.buffer, {})
            for kind in MOMENTS:
                if kind in moments:
                    tensors[kind] = own.of(moments[kind])
            yield StoredSlice(own.name, own.start, own.numel, tensors)

    def _own_part(self, held: HeldSlice) -> HeldSlice:
        """Return the part of a slice that this rank writes."""
        if not self.is_replicated:
            return held
        share = -(-held.numel // dist.get_world_size())
        start = min(dist.get_rank() * share, held.numel)
        return held.narrow(start, min(share, held.numel - start))

    def load(self, saved: SavedSlices, adam_step: int) -> None:
        """Take weights and moments from a checkpoint. A collective call.

        Raises InputError if the checkpoint has other parameters.
        """
        self._refuse_other_parameters(saved)
        buffers = {id(held.buffer): held.buffer for held in self.slices}
        for buffer in buffers.values():
            self._zero_moments(buffer)
        updated: set[int] = set()  # ids of the buffers that have had an update
        for held in self.slices:
            if held.count == 0:
                continue
            master = saved.read(held.name, MASTER, held.start, held.count)
            held.of(held.buffer).copy_(master)
            if saved.has_moments(held.name):
                updated.add(id(held.buffer))
                for kind in MOMENTS:
                    moment = saved.read(held.name, kind, held.start, held.count)
                    held.of(self._moment(held.buffer, kind, moment.dtype)).copy_(moment)
        for key, buffer in buffers.items():
            if key in updated:
                self._set_step(buffer, adam_step)
            else:  # the checkpoint is from before its first update
                self.adam.state.pop(buffer, None)
        self.refresh_weights()

    def _refuse_other_parameters(self, saved: SavedSlices) -> None:
        """Raise InputError if the checkpoint's parameters are not those that are trained."""
        for held in self.slices:
            found = saved.numel.get(held.name)
            if found != held.numel:
                what = "is missing" if found is None else f"has {found} elements"
                raise InputError(
                    f"the checkpoint is of another student: {held.name} has {held.numel} elements"
                    f" in this run, and in the checkpoint it {what}.\n"
                    "  set another run_dir, or train the student that the checkpoint is of."
                )

    def _zero_moments(self, buffer: Tensor) -> None:
        """Set the moments of a buffer to zero, where a checkpoint may have none for a parameter."""
        for kind in MOMENTS:
            if kind in self.adam.state.get(buffer, {}):
                self.adam.state[buffer][kind].zero_()

    def _moment(self, buffer: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
        """Return a moment of a buffer; it is made if Adam has not made an update yet."""
        state = self.adam.state[buffer]
        if kind not in state:
            state[kind] = torch.zeros_like(buffer, dtype=dtype, requires_grad=False)
        moment: Tensor = state[kind]
        return moment

    def _set_step(self, buffer: Tensor, step: int) -> None:
        """Set Adam's counter of a buffer, in the form that this implementation of Adam uses."""
        if not isinstance(self.adam, torch.optim.Adam):
            self.adam.state[buffer]["step"] = step  # DeepSpeed's kernels count with integers
            return
        # torch keeps the counter of its fused implementation on the parameter's device.
        is_fused = any(group.get("fused") for group in self.adam.param_groups)
        device = buffer.device if is_fused else torch.device("cpu")
        self.adam.state[buffer]["step"] = torch.tensor(
            float(step), dtype=torch.float32, device=device
        )
