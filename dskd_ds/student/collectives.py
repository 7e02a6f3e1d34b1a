"""Small values that the students exchange as JSON. Every function here is a collective call."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import deepspeed.comm as dist
import torch
from torch import Tensor

from dskd_ds.errors import DskdError, ExitCode, OtherRankError, exit_code_of
from dskd_ds.runtime.devices import local_device


def broadcast_from_rank_0(value: Any) -> Any:
    """Return rank 0's value on all ranks. The value of another rank is not used."""
    payload = _encode(value if dist.get_rank() == 0 else None)
    size = torch.tensor([len(payload)], device=local_device())
    dist.broadcast(size, 0)
    if dist.get_rank() > 0:
        payload = torch.zeros(int(size), dtype=torch.uint8, device=local_device())
    dist.broadcast(payload, 0)
    return _decode(payload)


def all_gather_values(value: Any) -> list[Any]:
    """Return the values of all ranks, by rank."""
    payload = _encode(value)
    num_ranks = dist.get_world_size()
    size = torch.tensor([len(payload)], device=local_device())
    sizes = [torch.zeros_like(size) for _ in range(num_ranks)]
    dist.all_gather(sizes, size)
    # All ranks must send equally long tensors, so each is padded to the longest.
    longest = int(max(sizes))
    padded = torch.nn.functional.pad(payload, (0, longest - len(payload)))
    gathered = [torch.zeros_like(padded) for _ in range(num_ranks)]
    dist.all_gather(gathered, padded)
    return [_decode(tensor[: int(size)]) for tensor, size in zip(gathered, sizes, strict=True)]


def run_on_rank_0(task: Callable[..., None], *arguments: object) -> None:
    """Run `task` on rank 0. If it raises DskdError or OSError there, all ranks raise DskdError.

    Only rank 0's error has a message, so it is printed once.
    """
    failure: DskdError | None = None
    if dist.get_rank() == 0:
        try:
            task(*arguments)
        except DskdError as error:
            failure = error
        except OSError as error:
            failure = DskdError(str(error))
    code = broadcast_from_rank_0(int(failure.exit_code) if failure else 0)
    if failure:
        raise failure
    if code:
        raise OtherRankError(ExitCode(code))


def ask_rank_0(task: Callable[..., Any], *arguments: object) -> Any:
    """Return on all ranks what `task` returns on rank 0. Raises as `run_on_rank_0` does."""
    answers: list[Any] = []
    run_on_rank_0(lambda: answers.append(task(*arguments)))
    return broadcast_from_rank_0(answers[0] if answers else None)


def all_reduce_error(error: Exception | None) -> Exception | None:
    """Return this rank's error; OtherRankError if only another rank met one; None if none did.

    So a rank that cannot go on tells the others before they wait for it in a collective call.
    """
    code = exit_code_of(error)
    counts = torch.tensor([int(code is other) for other in ExitCode], device=local_device())
    dist.all_reduce(counts)
    met = [other for other, count in zip(ExitCode, counts.tolist(), strict=True) if count]
    if error is None and max(met) is not ExitCode.DONE:
        return OtherRankError(max(met))
    return error


def raise_on_every_rank(error: Exception | None) -> None:
    """Raise on all ranks if any of them met an error: its own, or OtherRankError."""
    agreed = all_reduce_error(error)
    if agreed:
        raise agreed


def _encode(value: Any) -> Tensor:
    content = json.dumps(value).encode()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(local_device())


def _decode(payload: Tensor) -> Any:
    return json.loads(bytes(payload.tolist()))
