"""A GPU that fails for good ends its teacher; one that is only full does not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from dskd_ds.errors import ExitCode
from dskd_ds.link import Work
from dskd_ds.link.messages import Request
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.senses.choose.on_teacher import NO_SENSES
from dskd_ds.teacher.group import TeacherGroup
from dskd_ds.teacher.group_channel import LostRankError
from dskd_ds.teacher.lost_device import LostDeviceError, is_device_lost, is_request_to_blame
from dskd_ds.teacher.out_of_memory import TeacherMemoryError
from dskd_ds.teacher.service import _leave, serve_requests
from tests.unit.signals.known_request import WANTED, known_request
from tests.unit.teacher.test_out_of_memory import OneRequest

ASSERTION = "CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA."
AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)


class Trunk(torch.nn.Module):
    """A trunk whose forward pass fails with an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, **_: object) -> None:
        raise self.error


def requests() -> OneRequest:
    return OneRequest(*[(known_request("topk").arrays, WANTED) for _ in range(3)])


@pytest.mark.parametrize("error", [RuntimeError(ASSERTION), AcceleratorError(ASSERTION)])
def test_a_lost_gpu_ends_the_teacher_and_the_request_is_not_refused(
    teacher: FrozenModel, error: Exception
) -> None:
    link = requests()
    with pytest.raises(LostDeviceError, match="CUDA error: device-side assert trig") as caught:
        serve_requests(replace(teacher, trunk=Trunk(error)), NO_SENSES, link)
    assert not link.failures
    assert list(link.given_back) == [0]
    assert "device-side assert" in link.given_back[0]
    assert caught.value.exit_code == ExitCode.FAILED
    assert "\n  start it again." in str(caught.value)


def test_a_teacher_of_a_launch_goes_on_and_refuses(teacher: FrozenModel) -> None:
    """The launcher would end the students with it."""
    link = requests()
    broken = replace(teacher, trunk=Trunk(RuntimeError(ASSERTION)))
    serve_requests(broken, NO_SENSES, link, ends_with_device=False)
    assert list(link.failures) == [0, 1, 2]
    assert not link.given_back


@pytest.mark.parametrize(
    ("error", "is_to_blame"),
    [
        (TeacherMemoryError("too little memory"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB."), True),
        (ValueError("draw_positions do not ascend"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), False),
        (RuntimeError(ASSERTION), False),
        (LostRankError("rank 1 of this teacher takes no requests."), False),
    ],
)
def test_a_teacher_of_several_ranks_refuses_a_request_only_if_it_is_to_blame(
    error: Exception, is_to_blame: bool
) -> None:
    assert is_request_to_blame(error) == is_to_blame
    link = OneRequest()
    work = Work(0, Request(request_id=7, wanted=WANTED), {})
    group = cast(TeacherGroup, SimpleNamespace(work=work))
    _leave(link, group, "why", is_refusal=is_to_blame)
    assert link.failures == ({7: "why"} if is_to_blame else {})
    assert link.given_back == ({} if is_to_blame else {7: "why"})


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB."),
        AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("CUDA error: not from torch"),
    ],
)
def test_other_errors_cost_their_request_only(error: Exception) -> None:
    assert not is_device_lost(error)
